"""What is published in one turn as batches of the log."""

from __future__ import annotations

from typing import Final, TypeAlias

from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.outgoing import Published, payload_bytes
from gateway.protocols.mqtt.records import headers_of
from gateway.protocols.mqtt.routes import Route
from trivium.record_batch import BatchHeader
from trivium.record_writer import Template, assemble

BATCH_BYTES_MAX: Final = 512 * 1024

Row: TypeAlias = tuple[Route, Published]


def batch_of(rows: list[Row], now_ms: int) -> tuple[BatchHeader, bytes, bool]:
    """The records of the rows as one batch; and whether all of them are runs."""
    pieces: list[bytes] = []
    count = 0
    plain = True
    for route, message in rows:
        if message.__class__ is RunReceived:
            template = route.template(message.qos, message.publisher)
            count = template.write(pieces, count, message.payloads)
        else:
            plain = False
            _, _, _, payload, qos, retain, properties, publisher, _ = message  # type: ignore[misc]
            template = Template(route.key, headers_of(qos, retain, properties, publisher))
            count = template.write(pieces, count, (payload,))
    return *assemble(pieces, count, now_ms), plain


def parts_of(rows: list[Row]) -> list[list[Row]]:
    """The rows in order, in pieces of about BATCH_BYTES_MAX."""
    sizes = [payload_bytes(message) for _, message in rows]
    if sum(sizes) <= BATCH_BYTES_MAX:
        return [rows]
    parts: list[list[Row]] = [[]]
    size = 0
    for row, row_bytes in zip(rows, sizes, strict=True):
        size += row_bytes
        if size > BATCH_BYTES_MAX and parts[-1]:
            parts.append([])
            size = row_bytes
        parts[-1].append(row)
    return parts
