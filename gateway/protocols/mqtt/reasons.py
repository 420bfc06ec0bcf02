"""Reason codes of MQTT 5 (section 2.4), the return codes of MQTT 3, and which packet may carry which.

The machine speaks MQTT 5 codes everywhere; `CONNACK_V3` and `suback_v3` turn them into what MQTT 3.1 and 3.1.1 know.
"""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0x00
GRANTED_QOS_0: Final = 0x00
GRANTED_QOS_1: Final = 0x01
GRANTED_QOS_2: Final = 0x02
DISCONNECT_WITH_WILL: Final = 0x04
NO_MATCHING_SUBSCRIBERS: Final = 0x10
NO_SUBSCRIPTION_EXISTED: Final = 0x11
CONTINUE_AUTHENTICATION: Final = 0x18
REAUTHENTICATE: Final = 0x19
UNSPECIFIED: Final = 0x80
MALFORMED_PACKET: Final = 0x81
PROTOCOL_ERROR: Final = 0x82
IMPLEMENTATION_ERROR: Final = 0x83
UNSUPPORTED_VERSION: Final = 0x84
CLIENT_ID_INVALID: Final = 0x85
BAD_CREDENTIALS: Final = 0x86
NOT_AUTHORIZED: Final = 0x87
SERVER_UNAVAILABLE: Final = 0x88
SERVER_BUSY: Final = 0x89
BANNED: Final = 0x8A
SERVER_SHUTTING_DOWN: Final = 0x8B
BAD_AUTHENTICATION_METHOD: Final = 0x8C
KEEP_ALIVE_TIMEOUT: Final = 0x8D
SESSION_TAKEN_OVER: Final = 0x8E
TOPIC_FILTER_INVALID: Final = 0x8F
TOPIC_NAME_INVALID: Final = 0x90
PACKET_ID_IN_USE: Final = 0x91
PACKET_ID_NOT_FOUND: Final = 0x92
RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
TOPIC_ALIAS_INVALID: Final = 0x94
PACKET_TOO_LARGE: Final = 0x95
MESSAGE_RATE_TOO_HIGH: Final = 0x96
QUOTA_EXCEEDED: Final = 0x97
ADMINISTRATIVE_ACTION: Final = 0x98
PAYLOAD_FORMAT_INVALID: Final = 0x99
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B
USE_ANOTHER_SERVER: Final = 0x9C
SERVER_MOVED: Final = 0x9D
SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Final = 0x9E
CONNECTION_RATE_EXCEEDED: Final = 0x9F
MAXIMUM_CONNECT_TIME: Final = 0xA0
SUBSCRIPTION_IDS_NOT_SUPPORTED: Final = 0xA1
WILDCARDS_NOT_SUPPORTED: Final = 0xA2

_PUBLISH_CODES = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))

CONNACK_CODES: Final = frozenset(
    bytes.fromhex("00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f"),
)
PUBACK_CODES: Final = _PUBLISH_CODES
PUBREC_CODES: Final = _PUBLISH_CODES
PUBREL_CODES: Final = frozenset((0x00, 0x92))
PUBCOMP_CODES: Final = PUBREL_CODES
SUBACK_CODES: Final = frozenset((0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2))
UNSUBACK_CODES: Final = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))
DISCONNECT_FROM_CLIENT: Final = frozenset(
    (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99)
)
DISCONNECT_FROM_SERVER: Final = frozenset(
    bytes.fromhex("00 80 81 82 83 87 89 8b 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2"),
)
AUTH_CODES: Final = frozenset((0x00, 0x18, 0x19))

# MQTT 3 knows five refusals; a code without an entry closes the connection without a CONNACK ([MQTT-3.2.2-6] of 3.1.1).
CONNACK_V3: Final = {
    SUCCESS: 0,
    UNSUPPORTED_VERSION: 1,
    CLIENT_ID_INVALID: 2,
    SERVER_UNAVAILABLE: 3,
    SERVER_BUSY: 3,
    SERVER_SHUTTING_DOWN: 3,
    QUOTA_EXCEEDED: 3,
    BAD_CREDENTIALS: 4,
    NOT_AUTHORIZED: 5,
    BANNED: 5,
}


def suback_v3(code: int) -> int:
    """The SUBACK return code of 3.1.1 for a code of MQTT 5: every failure is 0x80."""
    return code if code < 0x80 else 0x80
