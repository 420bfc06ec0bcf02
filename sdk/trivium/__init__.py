"""Trivium's Python client, and the wire formats that it shares with the broker.

    async with trivium.connect("localhost:9876") as client, client.producer() as producer:
        await producer.send("orders", b"one", key=b"customer-7")

Names are imported on first use: the broker uses the wire formats alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.client import Client, TopicDescription, connect
    from trivium.consumer import Consumer, Message
    from trivium.errors import Closed, Disconnected, ErrorCode, RequestRefused, RequestTimedOut, TriviumError
    from trivium.frames.offsets import EARLIEST, LATEST
    from trivium.producer import Producer, Sent
    from trivium.record_batch import Codec
    from trivium.requests import Requester, reply

__all__ = [
    "EARLIEST",
    "LATEST",
    "Client",
    "Closed",
    "Codec",
    "Consumer",
    "Disconnected",
    "ErrorCode",
    "Message",
    "Producer",
    "RequestRefused",
    "RequestTimedOut",
    "Requester",
    "Sent",
    "TopicDescription",
    "TriviumError",
    "connect",
    "reply",
]

_HOMES = {
    "client": ("Client", "TopicDescription", "connect"),
    "consumer": ("Consumer", "Message"),
    "errors": ("Closed", "Disconnected", "ErrorCode", "RequestRefused", "RequestTimedOut", "TriviumError"),
    "frames.offsets": ("EARLIEST", "LATEST"),
    "producer": ("Producer", "Sent"),
    "record_batch": ("Codec",),
    "requests": ("Requester", "reply"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
