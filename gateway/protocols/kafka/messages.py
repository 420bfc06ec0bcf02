"""The message classes: `from gateway.protocols.kafka.messages import MetadataRequest`. Types are in `messages.pyi`."""

from __future__ import annotations

from typing import Any

from gateway.protocols.kafka.codec_model import Message, message_class
from gateway.protocols.kafka.schemas import SCHEMAS

__all__ = ["Message"]


def __getattr__(name: str) -> Any:
    if name not in SCHEMAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    cls = message_class(name)
    globals()[name] = cls
    return cls
