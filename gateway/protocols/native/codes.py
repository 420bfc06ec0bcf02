"""The core's closed sets of errors as the protocol's codes: total, which a test checks."""

from __future__ import annotations

from core.errors import CoreError
from core.store.engine import Outcome
from trivium.errors import ErrorCode
from trivium.record_batch import BatchError, CorruptBatch, Reason

CORE_CODES = {error: ErrorCode.__members__.get(error.name, ErrorCode.INTERNAL) for error in CoreError}

OUTCOME_CODES = {
    Outcome.APPENDED: ErrorCode.NONE,
    Outcome.DUPLICATE: ErrorCode.NONE,
    Outcome.NOT_APPENDED: ErrorCode.NOT_APPENDED,
    Outcome.OUT_OF_ORDER_SEQUENCE: ErrorCode.OUT_OF_ORDER_SEQUENCE,
    Outcome.UNKNOWN_PRODUCER: ErrorCode.UNKNOWN_PRODUCER,
    Outcome.PRODUCER_FENCED: ErrorCode.PRODUCER_FENCED,
    Outcome.INVALID_TXN_STATE: ErrorCode.INVALID_TXN_STATE,
    Outcome.OFFSET_MISMATCH: ErrorCode.OFFSET_MISMATCH,
    Outcome.UNKNOWN_PARTITION: ErrorCode.UNKNOWN_PARTITION,
    Outcome.FULL: ErrorCode.STORE_FULL,
    Outcome.FAILED: ErrorCode.STORE_FAILED,
}


class Refused(Exception):
    """A request, or one entry of it, that cannot be done."""

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message or code.name)
        self.code = code


def batch_code(error: BatchError) -> ErrorCode:
    """The code of a bad batch."""
    if error.reason is Reason.TOO_LARGE:
        return ErrorCode.BATCH_TOO_LARGE
    if error.reason in (Reason.TIMESTAMP, Reason.LOG_APPEND_TIME):
        return ErrorCode.INVALID_TIMESTAMP
    return ErrorCode.CORRUPT_BATCH if isinstance(error, CorruptBatch) else ErrorCode.INVALID_BATCH
