"""Kafka's error codes, and what goes wrong at the codec.

`RemoteProtocolError` is the peer's fault: bytes that are no valid message. Kafka answers those by closing the connection;
`code` is what a response would carry where one is still possible. `LocalProtocolError` is ours: a message that cannot be
written in the version asked for.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Every error code up to Kafka 4.2, named as in Kafka's `Errors`."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INVALID_FETCH_SIZE = 4
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    STALE_CONTROLLER_EPOCH = 11
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19


class KafkaProtocolError(Exception):
    """Base of the codec's errors."""


class RemoteProtocolError(KafkaProtocolError):
    """The peer sent bytes that no valid message consists of."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> None:
        super().__init__(message)
        self.code = code


class UnsupportedVersionError(RemoteProtocolError):
    """The peer asked for an API or a version of it that the tables do not know."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ErrorCode.UNSUPPORTED_VERSION)


class LocalProtocolError(KafkaProtocolError):
    """We tried to write a message that its version cannot carry."""
