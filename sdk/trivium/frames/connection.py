"""The connection itself: first words, errors, and what the broker asks its client."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import LONG_TEXT, TEXT, Declared, Kind

MAGIC = b"TRIVIUM"


class Error(NamedTuple):
    """The head of a reply with a status: what to do about it, in words."""

    message: str


class Done(NamedTuple):
    """A reply that says no more than that it is done, and durable."""


class Hello(NamedTuple):
    """The first frame of a connection. The broker takes the highest version that both have."""

    magic: bytes
    version_min: int
    version_max: int
    client_id: str
    software: str


class Welcome(NamedTuple):
    """The reply to Hello: what this connection speaks, and the broker's limits."""

    version: int
    cluster_id: str
    frame_bytes_max: int
    in_flight_max: int  # requests without a reply


class AskStatus(NamedTuple):
    """The broker asks how the client is."""


class Status(NamedTuple):
    """A JSON object, such as {"settings": ..., "stacks": ...}."""

    text: str


ERROR = Declared(Error, c.Struct("message" / TEXT))
DONE = Declared(Done, c.Struct())

_HELLO = Declared(
    Hello,
    c.Struct(
        "magic" / c.Bytes(len(MAGIC)),
        "version_min" / c.Int8ub,
        "version_max" / c.Int8ub,
        "client_id" / TEXT,
        "software" / TEXT,
    ),
)
_WELCOME = Declared(
    Welcome,
    c.Struct("version" / c.Int8ub, "cluster_id" / TEXT, "frame_bytes_max" / c.Int32ub, "in_flight_max" / c.Int32ub),
)

STATUS = Declared(Status, c.Struct("text" / LONG_TEXT))

KINDS = {
    1: Kind(_HELLO, _WELCOME),
    11: Kind(Declared(AskStatus, c.Struct()), STATUS, from_broker=True),
}
