"""What can go wrong, as the broker names it and as the SDK raises it.

`ErrorCode` is the native protocol's closed set, one byte on the wire; 0 is no error. Numbers are never used again for
something else. A client that meets a number it does not know treats it as an error it cannot retry.
"""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    NONE = 0
    # the connection and the request as such
    UNSUPPORTED_VERSION = 1
    UNKNOWN_KIND = 2
    INTERNAL = 4
    # topics
    UNKNOWN_TOPIC = 10
    TOPIC_EXISTS = 11
    INVALID_TOPIC = 12
    INVALID_PARTITIONS = 13
    INVALID_CONFIG = 14
    POLICY_VIOLATION = 15
    UNKNOWN_PARTITION = 16
    # batches
    CORRUPT_BATCH = 20
    INVALID_BATCH = 21
    BATCH_TOO_LARGE = 22
    INVALID_TIMESTAMP = 23
    NOT_APPENDED = 24  # another entry of the same atomic send was refused
    OUT_OF_ORDER_SEQUENCE = 25
    UNKNOWN_PRODUCER = 26
    PRODUCER_FENCED = 27
    OFFSET_MISMATCH = 28
    WRONG_MESSAGE_TYPE = 90
    INVALID_MESSAGE = 91
    UNKNOWN_MESSAGE = 92
    MESSAGE_ENDED = 93
    LIMIT_REACHED = 94
    KEY_CHANGED = 95
    CONTENDED = 96
    # reads
    OFFSET_OUT_OF_RANGE = 30
    DATA_DAMAGED = 31
    # groups and offsets
    INVALID_GROUP_ID = 40
    INVALID_GROUP_REQUEST = 41
    GROUP_NOT_FOUND = 42
    GROUP_NOT_EMPTY = 43
    GROUP_FULL = 44
    COORDINATOR_NOT_AVAILABLE = 45
    UNKNOWN_MEMBER = 46
    MEMBER_ID_REQUIRED = 47
    ILLEGAL_GENERATION = 48
    REBALANCE_IN_PROGRESS = 49
    INCONSISTENT_GROUP_PROTOCOL = 50
    INVALID_SESSION_TIMEOUT = 51
    FENCED_INSTANCE = 52
    UNRELEASED_INSTANCE = 53
    FENCED_MEMBER_EPOCH = 54
    STALE_MEMBER_EPOCH = 55
    MEMBER_EPOCHS_UNSUPPORTED = 56
    UNSUPPORTED_ASSIGNOR = 57
    INVALID_REGEX = 58
    OFFSET_METADATA_TOO_LARGE = 59
    UNSTABLE_OFFSET = 60
    GROUP_SUBSCRIBED = 61
    INVALID_FILTER = 62
    GROUP_WAS_RESET = 63
    CONTRADICTS_GROUP = 64  # the group has one subscription, and this member asks for another
    RECEIPT_LATE = 65  # its time was over, or the group was reset: the message is another's, or waits
    # transactions
    UNKNOWN_TRANSACTIONAL_ID = 70
    CONCURRENT_TRANSACTIONS = 71
    INVALID_TXN_STATE = 72
    INVALID_TXN_TIMEOUT = 73
    NOT_IN_TRANSACTION = 74
    # the store
    STORE_FULL = 80
    STORE_FAILED = 81


class TriviumError(Exception):
    """The base of everything this package raises on its own."""


class ProtocolError(TriviumError):
    """The connection cannot go on."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """This side tried what the protocol does not allow: a mistake of the caller."""


class RequestRefused(TriviumError):
    """The broker refused a request. `code` says which kind."""

    def __init__(self, code: int, message: str) -> None:
        try:
            self.code: int = ErrorCode(code)
            name = ErrorCode(code).name.lower().replace("_", " ")
        except ValueError:
            self.code, name = code, f"error {code}"
        super().__init__(f"{name}: {message}" if message else name)


class Disconnected(TriviumError):
    """No broker could be reached, or the connection was lost before the answer came."""


class RequestTimedOut(TriviumError):
    """The answer did not come in time. What was asked may have been done."""


class BufferFull(TriviumError):
    """More waits to be sent than the producer may hold."""


class KeyChanged(TriviumError):
    """The last message of a key is not where the sender thought: it stands at `last_offset` (-1: there is none)."""

    def __init__(self, topic: str, partition: int, key: bytes, last_offset: int) -> None:
        super().__init__(
            f"the last message of key {key!r} in {topic}/{partition} has offset {last_offset}: read it first"
        )
        self.topic = topic
        self.partition = partition
        self.key = key
        self.last_offset = last_offset


class Closed(TriviumError):
    """The client, producer or consumer has been closed."""
