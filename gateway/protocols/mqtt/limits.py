"""What one connection may use, and what the broker announces of it in CONNACK."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every connection of a listener. Raises ValueError when they contradict each other."""

    packet_bytes_max: int = 1_048_576  # one packet from a client, fixed header included
    connect_bytes_max: int = 131_072  # the first packet of a connection
    connect_timeout_s: float = 10.0  # from the opening of the connection to a whole CONNECT
    keep_alive_s_max: int = 0  # what MQTT 5 clients are told to use when they ask for more or for none; 0: theirs
    receive_max: int = 1_000  # QoS 1 and 2 publishes of a client that are not acknowledged yet
    topic_alias_max: int = 32  # topic aliases a client may set
    inflight_max: int = 1_000  # QoS 1 and 2 messages to a client that it has not acknowledged yet
    topic_alias_out_max: int = 32  # topic aliases used towards a client that allows them
    output_bytes_max: int = 1_048_576  # what waits for a client's socket; above it QoS 0 is dropped, QoS 1 and 2 wait
    session_expiry_s_max: int = 0xFFFFFFFF
    publishes_per_s_max: int = 0  # of one client, on average; above it is not read from; 0: any
    bytes_per_s_max: int = 0  # likewise, of what a client sends

    @property
    def paced(self) -> bool:
        return self.publishes_per_s_max > 0 or self.bytes_per_s_max > 0

    def __post_init__(self) -> None:
        if not 1 <= self.receive_max <= 65_535 or not 1 <= self.inflight_max <= 65_535:
            raise ValueError("receive_max and inflight_max lie between 1 and 65,535")
        if not 64 <= self.connect_bytes_max <= self.packet_bytes_max <= 268_435_460:
            raise ValueError("connect_bytes_max lies between 64 and packet_bytes_max, at most 268,435,460 bytes")
        if not 0 <= self.topic_alias_max <= 65_535 or not 0 <= self.topic_alias_out_max <= 65_535:
            raise ValueError("topic alias limits lie between 0 and 65,535")
