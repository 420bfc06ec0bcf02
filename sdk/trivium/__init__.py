"""Trivium's Python client, and the wire formats that it shares with the broker.

    async with trivium.connect("localhost:9876") as client, client.producer() as producer:
        await producer.send("orders", b"one", key=b"customer-7")

Names are imported on first use: the broker uses the wire formats alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.client import Client, connect
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
    from trivium.frames.queue_admin import QueueInfo
    from trivium.frames.traces import TraceEntry, TraceEvent
    from trivium.half_messages import Half, HalfMessage, HalfProducer, WaitingHalf
    from trivium.handouts import Message as QueueMessage
    from trivium.outgoing import Sent
    from trivium.producer import NewMessage, Producer
    from trivium.queue_admin import DeadLetter
    from trivium.record_batch import Codec
    from trivium.requests import Requester, reply
    from trivium.scheduled import Cancellation, ScheduledMessage
    from trivium.serializers import JSON, TEXT, CannotDeserialize, Serializer, TypedTopic
    from trivium.subscriber import Subscriber
    from trivium.topics import TopicDescription
    from trivium.trace_context import continuing
    from trivium.transactions import Transaction, TransactionalSender

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
    "Half",
    "HalfMessage",
    "HalfProducer",
    "KeyChanged",
    "Message",
    "NewMessage",
    "Producer",
    "QueueInfo",
    "QueueMessage",
    "RequestRefused",
    "RequestTimedOut",
    "Requester",
    "ScheduledMessage",
    "Sent",
    "Serializer",
    "Subscriber",
    "TopicDescription",
    "TraceEntry",
    "TraceEvent",
    "Transaction",
    "TransactionalSender",
    "TriviumError",
    "TypedTopic",
    "WaitingHalf",
    "connect",
    "continuing",
    "reply",
]

_HOMES = {
    "client": ("Client", "connect"),
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
    "frames.queue_admin": ("QueueInfo",),
    "frames.traces": ("TraceEntry", "TraceEvent"),
    "frames.halves": ("COMMIT", "DO_NOT_KNOW", "ROLL_BACK"),
    "handouts": ("QueueMessage",),
    "half_messages": ("Half", "HalfMessage", "HalfProducer", "WaitingHalf"),
    "outgoing": ("Sent",),
    "producer": ("NewMessage", "Producer"),
    "queue_admin": ("DeadLetter",),
    "record_batch": ("Codec",),
    "subscriber": ("Subscriber",),
    "requests": ("Requester", "reply"),
    "scheduled": ("Cancellation", "ScheduledMessage"),
    "serializers": ("JSON", "TEXT", "CannotDeserialize", "Serializer", "TypedTopic"),
    "topics": ("TopicDescription",),
    "trace_context": ("continuing",),
    "transactions": ("Transaction", "TransactionalSender"),
}
_NAME_THERE = {"QueueMessage": "Message"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), _NAME_THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
