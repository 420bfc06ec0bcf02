"""The core's closed set of errors. Every protocol maps it totally to its own codes (a test per protocol checks that
none is missing).
"""

from __future__ import annotations

import enum


class CoreError(enum.Enum):
    # topics
    UNKNOWN_TOPIC = "unknown topic"
    TOPIC_EXISTS = "topic exists"
    INVALID_TOPIC = "invalid topic name"
    INVALID_PARTITIONS = "invalid number of partitions"
    INVALID_CONFIG = "invalid configuration"
    POLICY_VIOLATION = "policy violation"
    # messages
    WRONG_MESSAGE_TYPE = "not a kind of message that the topic takes"
    INVALID_MESSAGE = "invalid message"
    UNKNOWN_MESSAGE = "unknown message"
    MESSAGE_ENDED = "the message has ended otherwise"
    LIMIT_REACHED = "a limit of the broker is reached"
    KEY_CHANGED = "the key has changed since"
    CONTENDED = "too many writers at once"
    # groups and offsets
    INVALID_GROUP_ID = "invalid group id"
    INVALID_GROUP_REQUEST = "invalid group request"
    GROUP_NOT_FOUND = "group not found"
    GROUP_NOT_EMPTY = "group is not empty"
    GROUP_FULL = "group has reached its maximum size"
    COORDINATOR_NOT_AVAILABLE = "coordinator not available"
    UNKNOWN_MEMBER = "unknown member"
    MEMBER_ID_REQUIRED = "member id required"
    ILLEGAL_GENERATION = "illegal generation"
    REBALANCE_IN_PROGRESS = "rebalance in progress"
    INCONSISTENT_GROUP_PROTOCOL = "inconsistent group protocol"
    INVALID_SESSION_TIMEOUT = "invalid session timeout"
    FENCED_INSTANCE = "fenced by a newer member with this instance id"
    UNRELEASED_INSTANCE = "instance id is still in use"
    FENCED_MEMBER_EPOCH = "fenced member epoch"
    STALE_MEMBER_EPOCH = "stale member epoch"
    MEMBER_EPOCHS_UNSUPPORTED = "the request's version knows no member epochs"
    UNSUPPORTED_ASSIGNOR = "unsupported assignor"
    INVALID_REGEX = "invalid regular expression"
    INVALID_FILTER = "invalid filter"
    RECEIPT_LATE = "the message is no longer this member's"
    GROUP_WAS_RESET = "the group's offsets were reset meanwhile"
    OFFSET_METADATA_TOO_LARGE = "offset metadata too large"
    UNSTABLE_OFFSET = "offset awaits the end of a transaction"
    GROUP_SUBSCRIBED = "group is subscribed to the topic"
    CONTRADICTS_GROUP = "the group's subscription is another"
    # transactions
    UNKNOWN_TRANSACTIONAL_ID = "transactional id and producer id do not belong together"
    PRODUCER_FENCED = "a newer producer has taken over"
    CONCURRENT_TRANSACTIONS = "another change of this transaction is on its way"
    INVALID_TXN_STATE = "not possible in the transaction's state"
    INVALID_TXN_TIMEOUT = "transaction time-out out of range"
    NOT_IN_TRANSACTION = "not added to the transaction"
    # store
    STORE_FULL = "store full"
    STORE_FAILED = "store failed"


class CoreFailure(Exception):
    """A refused operation: `error` says which kind, the message what to do."""

    def __init__(self, error: CoreError, message: str = "") -> None:
        super().__init__(message or error.value)
        self.error = error
        self.message = message or error.value
