"""Values that are not bytes: a topic with a serializer, for every way to send and to read.

    orders = trivium.TypedTopic("orders", trivium.JSON)

    await producer.send(*orders({"id": 7}), key=b"customer-7")
    async for message in consumer:
        order = orders.value(message)

A serializer is any object with `dumps` and `loads`: the standard `pickle` and `json` modules have the shape, and so has
a few lines around protobuf, Avro or pydantic. `orders.headers` names the content type, which MQTT 5 devices see as
theirs; give it as `headers=` where somebody looks at it.
"""

from __future__ import annotations

import json
from typing import Any, Final, Generic, Protocol, TypeVar

from trivium.errors import TriviumError
from trivium.headers import CONTENT_TYPE

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Raises whatever it likes for what it cannot do; `content_type` is a MIME type, empty for none."""

    @property
    def content_type(self) -> str: ...

    def dumps(self, value: T, /) -> bytes: ...

    def loads(self, data: bytes, /) -> T: ...


class Readable(Protocol):
    """A message of a consumer, of a subscriber, or a reply."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def value(self) -> bytes | None: ...


class CannotDeserialize(TriviumError):
    """A message's value is not what its topic's serializer writes; `__cause__` is the serializer's error."""


class _Json:
    content_type = "application/json"

    def dumps(self, value: Any, /) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    def loads(self, data: bytes, /) -> Any:
        return json.loads(data)


class _Text:
    content_type = "text/plain; charset=utf-8"

    def dumps(self, value: str, /) -> bytes:
        return value.encode()

    def loads(self, data: bytes, /) -> str:
        return data.decode()


JSON: Final[Serializer[Any]] = _Json()
TEXT: Final[Serializer[str]] = _Text()


class TypedTopic(Generic[T]):
    """A topic's name and how its values are written. None is a null value, on both sides."""

    def __init__(self, name: str, serializer: Serializer[T]) -> None:
        self.name = name
        self.serializer = serializer
        content_type = serializer.content_type
        self.headers: list[tuple[str, bytes | None]] = [(CONTENT_TYPE, content_type.encode())] if content_type else []

    def __call__(self, value: T | None) -> tuple[str, bytes | None]:
        """Topic and bytes, to be unpacked into a call that sends. Raises what the serializer raises."""
        return self.name, None if value is None else self.serializer.dumps(value)

    def value(self, message: Readable) -> T | None:
        """The message's value. Raises CannotDeserialize, which names the message."""
        if message.value is None:
            return None
        try:
            return self.serializer.loads(message.value)
        except Exception as error:
            raise CannotDeserialize(
                f"{message.topic}/{message.partition} at {message.offset} cannot be read as "
                f"{self.serializer.content_type or type(self.serializer).__name__}: {error}"
            ) from error
