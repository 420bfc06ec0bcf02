"""Batches under a producer id and sequence, so that what is sent twice is stored once.

Rules:
- One request is on its way at a time. One whose answer was lost is sent again, byte for byte.
- The sequence counts the records of a partition. After a refusal, or when it is open what was stored, it no longer
  fits: a new id is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from trivium.client import Client
from trivium.errors import Closed, ErrorCode, RequestRefused, TriviumError
from trivium.frames.sending import LOOK, NewProducer, NewProducerReply, Send, SendEntry, SendResult
from trivium.outgoing import Outgoing, Place, fail_batch, settle_batch
from trivium.record_batch import Codec
from trivium.records import build

_SEQUENCE_MASK = 0x7FFFFFFF


class IdempotentSender:
    """One call of `send` at a time."""

    def __init__(self, client: Client, codec: Codec) -> None:
        self._client = client
        self._codec = codec
        self._producer: NewProducerReply | None = None
        self._sequences: dict[Place, int] = {}

    async def send(self, batches: Mapping[Place, list[Outgoing]]) -> None:
        """One request, a batch for each partition; every message has its outcome on return."""
        try:
            if self._producer is None:
                self._producer, _ = await self._client.request(NewProducer())
            built = [self._build(self._producer, where, batch) for where, batch in batches.items()]
            entries = [SendEntry(*where, len(one)) for where, one in zip(batches, built, strict=True)]
            flags = LOOK if any(one.asks for batch in batches.values() for one in batch) else 0
            reply, _ = await self._client.request(Send(flags, "", entries), built)
        except (TriviumError, ValueError, TypeError) as error:
            self._start_anew()
            for batch in batches.values():
                fail_batch(batch, error)
            return
        except BaseException:
            self._start_anew()
            for batch in batches.values():
                fail_batch(batch, Closed("the producer was cancelled: the record may be stored"))
            raise
        refused = False
        for (where, batch), result in zip(batches.items(), reply.entries, strict=True):
            if result.status:
                refused = True
                self._refused(where, batch, result)
                continue
            self._sequences[where] = (self._sequences.get(where, 0) + len(batch)) & _SEQUENCE_MASK
            settle_batch(where, batch, result)
        if refused:
            self._start_anew()

    def _build(self, producer: NewProducerReply, where: Place, batch: list[Outgoing]) -> bytes:
        return build(
            [one.record for one in batch],
            codec=self._codec,
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            base_sequence=self._sequences.get(where, 0),
        )

    def _refused(self, where: Place, batch: list[Outgoing], result: SendResult) -> None:
        if result.status in (ErrorCode.UNKNOWN_TOPIC, ErrorCode.UNKNOWN_PARTITION):
            self._client.forget(where[0])
        place = f"topic {where[0]!r}, partition {where[1]}"
        fail_batch(batch, RequestRefused(result.status, f"{place}: {result.reason}" if result.reason else place))

    def _start_anew(self) -> None:
        self._producer = None
        self._sequences.clear()
