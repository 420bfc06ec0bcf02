"""Random messages for any schema and version, seeded. Fields that the version lacks keep their default."""

from __future__ import annotations

import random
import re
from typing import Any

from gateway.protocols.kafka.codec_model import Field, Message, Schema, struct_classes
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.schemas import SCHEMAS

BOUNDS = {"int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1)}
BOUNDS |= {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1), "int64": (-(2**63), 2**63 - 1)}
TEXTS = ("", "a", "topic-1", "grüße", "\U0001f600\0", "x" * 126, "y" * 127, "z" * 128, "w" * 300)
TIME = re.compile(r"_ms(_|$)|timestamp|time")


def versions_of(name: str) -> range:
    return range(SCHEMAS[name][2], SCHEMAS[name][3] + 1)


ALL_VERSIONS = [(name, version) for name in SCHEMAS for version in versions_of(name)]


class RandomMessages:
    """`calm` keeps error codes and times in the ranges that oracles with richer types than integers can hold."""

    def __init__(self, seed: str, calm: bool = False) -> None:
        self._rng = random.Random(seed)
        self._calm = calm

    def message(self, name: str, version: int) -> Message:
        return self._struct(Schema(name), name, version)

    def _struct(self, schema: Schema, struct: str, version: int) -> Message:
        message = struct_classes(schema.name)[struct]()
        for field in schema.fields(struct, version):
            if field.present:
                setattr(message, field.name, self._value(schema, field, version))
        return message

    def _value(self, schema: Schema, field: Field, version: int) -> Any:
        if field.nullable and self._rng.random() < 0.25:
            return None
        if field.tag is not None and self._rng.random() < 0.4:
            return [] if field.default == () else None if field.default is ... else field.default
        if not field.is_array:
            return self._single(schema, field, version)
        count = self._rng.choice((0, 1, 1, 2, 3)) if field.element not in BOUNDS else self._rng.choice((0, 1, 5, 130))
        return [self._single(schema, field, version) for _ in range(count)]

    def _single(self, schema: Schema, field: Field, version: int) -> Any:
        rng = self._rng
        match field.element:
            case "bool":
                return rng.random() < 0.5
            case "float64":
                return rng.uniform(-1e9, 1e9)
            case "string":
                return rng.choice(TEXTS)
            case "uuid":
                return rng.randbytes(16)
            case "bytes":
                return rng.randbytes(rng.choice((0, 1, 127, 200)))
            case "records":
                return memoryview(rng.randbytes(rng.choice((0, 1, 127, 20_000))))
            case kind if kind in BOUNDS:
                return self._integer(kind, field.name)
        struct = self._struct(schema, field.element, version)
        while field.tag is not None and struct == type(struct)():
            struct = self._struct(schema, field.element, version)  # oracles omit a tagged struct that is its default
        return struct

    def _integer(self, kind: str, name: str) -> int:
        if self._calm and "error_code" in name:
            return self._rng.choice(list(ErrorCode)[:100])
        if self._calm and name.endswith("authorized_operations"):
            return self._rng.randint(0, 2**12)
        low, high = BOUNDS[kind]
        if self._calm and TIME.search(name):
            return self._rng.randint(0, min(high, 2**40))
        return self._rng.choice((low, high, 0, 1, self._rng.randint(low, high)))
