"""Trivium's Python client, and the wire formats that it shares with the broker.

    async with trivium.connect("localhost:9876") as client, client.producer() as producer:
        await producer.send("orders", b"one", key=b"customer-7")

Names are imported on first use: the broker uses the wire formats alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.client import Cancellation, Client, TopicDescription, connect
    from trivium.consumer import Consumer, Message
    from trivium.errors import (
        BufferFull,
        Closed,
        Disconnected,
        ErrorCode,
        KeyChanged,
        RequestRefused,
        RequestTimedOut,
        TriviumError,
    )
    from trivium.frames.halves import COMMIT, DO_NOT_KNOW, ROLL_BACK
    from trivium.frames.offsets import EARLIEST, LATEST
    from trivium.half_messages import HalfMessage
    from trivium.outgoing import Sent
    from trivium.producer import NewMessage, Producer
    from trivium.queue_admin import DeadLetter
    from trivium.record_batch import Codec
    from trivium.requests import Requester, reply
    from trivium.serializers import JSON, TEXT, CannotDeserialize, Serializer, TypedTopic
    from trivium.subscriber import Subscriber
    from trivium.trace_context import continuing

__all__ = [
    "COMMIT",
    "DO_NOT_KNOW",
    "EARLIEST",
    "JSON",
    "LATEST",
    "ROLL_BACK",
    "TEXT",
    "BufferFull",
    "Cancellation",
    "CannotDeserialize",
    "Client",
    "Closed",
    "Codec",
    "Consumer",
    "DeadLetter",
    "Disconnected",
    "ErrorCode",
    "HalfMessage",
    "KeyChanged",
    "Message",
    "NewMessage",
    "Producer",
    "RequestRefused",
    "RequestTimedOut",
    "Requester",
    "Sent",
    "Serializer",
    "Subscriber",
    "TopicDescription",
    "TriviumError",
    "TypedTopic",
    "connect",
    "continuing",
    "reply",
]

_HOMES = {
    "client": ("Cancellation", "Client", "TopicDescription", "connect"),
    "consumer": ("Consumer", "Message"),
    "errors": (
        "BufferFull",
        "Closed",
        "Disconnected",
        "ErrorCode",
        "KeyChanged",
        "RequestRefused",
        "RequestTimedOut",
        "TriviumError",
    ),
    "frames.offsets": ("EARLIEST", "LATEST"),
    "frames.halves": ("COMMIT", "DO_NOT_KNOW", "ROLL_BACK"),
    "half_messages": ("HalfMessage",),
    "outgoing": ("Sent",),
    "producer": ("NewMessage", "Producer"),
    "queue_admin": ("DeadLetter",),
    "record_batch": ("Codec",),
    "subscriber": ("Subscriber",),
    "requests": ("Requester", "reply"),
    "serializers": ("JSON", "TEXT", "CannotDeserialize", "Serializer", "TypedTopic"),
    "trace_context": ("continuing",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
