"""Names of record headers that say something to the broker, the same on every road into the log.

`trivium.` is the broker's and the SDK's own prefix. The other names may be set by anyone: a Kafka header, an MQTT user
property, a native header.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "trivium."
TAG: Final = "trivium.tag"  # text, for filters; may be set by anyone
EXPIRY_S: Final = "trivium.expiry-s"  # text: seconds from the record's timestamp, after which nobody is to get it
CONTENT_TYPE: Final = "trivium.content-type"  # text: a MIME type, MQTT 5's content type
RESPONSE_TOPIC: Final = "trivium.response-topic"  # text: the MQTT name (topic, slash, key) where a reply is to go
CORRELATION_DATA: Final = "trivium.correlation-data"  # bytes that the reply repeats
TRACE: Final = "trivium.trace"  # any value: this message is traced on topics with trace=marked; may be set by anyone
TRACE_PARENT: Final = "traceparent"  # W3C trace context, as it is, on every road
TRACE_STATE: Final = "tracestate"
MESSAGE_ID: Final = "trivium.id"  # text; core.message_ids says the rule
DELIVER_AT: Final = "deliver-at"  # text: ms since 1970, decimal, below TIME_MS_MAX
TIME_MS_MAX: Final = 253_402_300_800_000  # the year 10000
ONCE_ID: Final = "once-id"  # text: the application's own id, stored once within the topic's window
# What a dead letter says beside its own headers: texts, where it was and why it is here.
DEAD_LETTER_GROUP: Final = "trivium.dead-letter.group"
DEAD_LETTER_TOPIC: Final = "trivium.dead-letter.topic"
DEAD_LETTER_PARTITION: Final = "trivium.dead-letter.partition"
DEAD_LETTER_OFFSET: Final = "trivium.dead-letter.offset"
DEAD_LETTER_ATTEMPTS: Final = "trivium.dead-letter.attempts"
DEAD_LETTER_REASON: Final = "trivium.dead-letter.reason"
DEAD_LETTER_TIME: Final = "trivium.dead-letter.time-ms"
DEAD_LETTER_EXPIRY_S: Final = "trivium.dead-letter.expiry-s"  # its EXPIRY_S: a dead letter is kept for who looks
DEAD_LETTER_PREFIX: Final = "trivium.dead-letter."
