"""Names of record headers that say something to the broker, the same on every road into the log.

`trivium.` is the broker's and the SDK's own prefix. The other names may be set by anyone: a Kafka header, an MQTT user
property, a native header.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "trivium."
MESSAGE_ID: Final = "trivium.id"  # text; core.message_ids says the rule
DELIVER_AT: Final = "deliver-at"  # text: ms since 1970, decimal
ONCE_ID: Final = "once-id"  # text: the application's own id, stored once within the topic's window
