"""What can be configured: one frozen model per section, defaults as Kafka's where Kafka has the setting.

Names end in their unit. Times are milliseconds, sizes bytes, -1 means without limit where a field allows it. Relations
between limits are checked here, so that a broker which starts cannot meet them broken later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from platformdirs import user_state_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MIB = 1024 * 1024
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

ALL_ADDRESSES = frozenset({"0.0.0.0", "::", "*"})


class Address(NamedTuple):
    """A host and a port; as text `host:port`, an IPv6 host in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """`HOST:PORT` or `[IPv6]:PORT`. Raises ValueError that says what is wrong."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text of the form HOST:PORT")
    host, colon, port = value.strip().rpartition(":")
    if not colon or not host:
        raise ValueError(f"must have the form HOST:PORT, got {value!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address goes into brackets, as in [::1]:9092, got {value!r}")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"the port must be a number from 0 to 65535 (0 takes a free one), got {port!r}")
    return Address(host, int(port))


def parse_listen(value: object) -> Address | None:
    """As `parse_address`; empty text: no such listener."""
    return None if value is None or value == "" else parse_address(value)


ListenAddress = Annotated[Address, BeforeValidator(parse_address)]
MaybeListenAddress = Annotated[Address | None, BeforeValidator(parse_listen)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
Unlimited = Annotated[int, Field(ge=-1, le=INT64_MAX)]
Positive = Annotated[int, Field(ge=1, le=INT64_MAX)]
Count = Annotated[int, Field(ge=1, le=INT32_MAX)]
Millis = Annotated[int, Field(ge=0, le=INT64_MAX)]
Millis32 = Annotated[int, Field(ge=1, le=INT32_MAX)]


def _data_dir() -> Path:
    return user_state_path("trivium", appauthor=False) / "data"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class StoreConfig(Section):
    """`[store]`: the log on disk."""

    data_dir: UserPath = Field(default_factory=_data_dir)
    flush: Literal["sync", "async"] = "sync"  # sync: nothing is acknowledged before it is on disk
    flush_interval_ms: Annotated[int, Field(ge=1, le=60_000)] = 200  # of async
    segment_bytes: Annotated[int, Field(ge=1 * MIB, le=4096 * MIB)] = 256 * MIB
    disk_free_bytes_min: Annotated[int, Field(ge=0, le=INT64_MAX)] = 512 * MIB  # writes are refused below this
    reader_threads_max: Annotated[int, Field(ge=1, le=256)] = 8


class KafkaConfig(Section):
    """`[kafka]`: the Kafka listener."""

    listen: ListenAddress = Address("127.0.0.1", 9092)
    advertised: ListenAddress | None = None  # None: the listening address; port 0: the listening port
    node_id: Annotated[int, Field(ge=0, le=INT32_MAX)] = 1

    @model_validator(mode="after")
    def _reachable(self) -> KafkaConfig:
        if self.listen.host in ALL_ADDRESSES and self.advertised is None:
            raise ValueError(
                f"listening on all addresses ({self.listen.host}) without saying which one clients should connect to; "
                f"give --kafka-advertised HOST:PORT (or kafka.advertised) with a name or address that they can reach"
            )
        if self.advertised is not None and self.advertised.host in ALL_ADDRESSES:
            raise ValueError(f"no client can connect to the advertised address {self.advertised.host}")
        return self


class MqttRule(Section):
    """`[[mqtt.rules]]`: names that match `filter` live in `topic`, under the key that the template `key` makes."""

    filter: str
    topic: str
    key: str


class MqttConfig(Section):
    """`[mqtt]`: the MQTT listeners and what devices may do."""

    listen: MaybeListenAddress = Address("127.0.0.1", 1883)
    listen_tls: MaybeListenAddress = None
    listen_ws: MaybeListenAddress = None  # WebSocket
    listen_wss: MaybeListenAddress = None  # WebSocket over TLS
    ws_path: Annotated[str, Field(pattern=r"^(/[!-~]*|\*)$")] = "/mqtt"  # `*`: any
    tls_certificate: UserPath | None = None  # PEM, with the chain
    tls_key: UserPath | None = None  # PEM, without a passphrase
    connections_max: Count = 100_000
    packet_bytes_max: Annotated[int, Field(ge=1024, le=268_435_460)] = MIB  # one packet from a device
    receive_max: Annotated[int, Field(ge=1, le=65_535)] = 1_000  # publishes of a device not acknowledged yet
    inflight_max: Annotated[int, Field(ge=1, le=65_535)] = 1_000  # messages to a device not acknowledged by it
    output_bytes_max: Positive = MIB  # what waits for a device's socket; above it QoS 0 is dropped
    keep_alive_s_max: Annotated[int, Field(ge=0, le=65_535)] = 0  # what MQTT 5 devices are held to; 0: their own
    session_expiry_s_max: Annotated[int, Field(ge=0, le=2**32 - 1)] = 2**32 - 1  # the most; 2^32 - 1: never
    sessions_max: Count = 2_000_000  # of clients that are connected or may come back
    will_grace_s: Annotated[int, Field(ge=0, le=2**32 - 1)] = 10  # that wills wait after a restart for their clients
    auto_topics_max: Annotated[int, Field(ge=0, le=100_000)] = 1_000  # topics devices make; then `catch_all`
    auto_topic_retention_ms: Unlimited = 7 * DAY_MS  # of topics that devices make
    auto_topic_retention_bytes: Unlimited = 1024 * MIB  # of a partition of theirs
    catch_all: str = "mqtt.other"  # for names that are no topic of their own
    rules: tuple[MqttRule, ...] = ()
    offline_messages_max: Annotated[int, Field(ge=-1, le=INT32_MAX)] = -1  # a session gets of what it missed; -1: all
    store_qos0: bool = True  # the default of the topic config mqtt.store_qos0
    publishes_per_s_max: Annotated[int, Field(ge=0, le=INT32_MAX)] = 0  # of one device, on average; 0: any
    bytes_per_s_max: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0  # that one device sends; 0: any
    sys_interval_s: Annotated[int, Field(ge=0, le=65_535)] = 10  # between changes of $SYS; 0: no $SYS
    password_file: UserPath | None = None  # as mosquitto_passwd writes it
    acl_file: UserPath | None = None  # mosquitto's
    allow_anonymous: bool | None = None  # None: yes, unless there is a password_file

    @model_validator(mode="after")
    def _certified(self) -> MqttConfig:
        if (self.listen_tls or self.listen_wss) and (self.tls_certificate is None or self.tls_key is None):
            raise ValueError("listen_tls and listen_wss need tls_certificate and tls_key")
        return self


class NativeConfig(Section):
    """`[native]`: the listener of the native SDK."""

    listen: ListenAddress = Address("127.0.0.1", 9876)


class TopicsConfig(Section):
    """`[topics]`: how topics are made, and the defaults of their configs."""

    auto_create: bool = True
    num_partitions: Annotated[int, Field(ge=1, le=10_000)] = 1
    partitions_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000  # over all topics
    retention_ms: Unlimited = 7 * DAY_MS
    retention_bytes: Unlimited = -1
    cleanup_policy: Literal["delete", "compact", "compact,delete", "delete,compact"] = "delete"
    message_bytes_max: Annotated[int, Field(ge=0, le=INT32_MAX)] = MIB + 12  # a batch, as Kafka's message.max.bytes
    compression_type: Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"] = "producer"
    timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime"
    delete_retention_ms: Millis = DAY_MS


class GroupsConfig(Section):
    """`[groups]`: consumer groups, classic and KIP-848."""

    session_timeout_ms_min: Millis32 = 6_000
    session_timeout_ms_max: Millis32 = 1_800_000
    initial_rebalance_delay_ms: Annotated[int, Field(ge=0, le=INT32_MAX)] = 3_000
    members_max: Count = 10_000  # in one group
    consumer_session_timeout_ms: Millis32 = 45_000  # KIP-848
    consumer_heartbeat_interval_ms: Millis32 = 5_000
    consumer_session_timeout_ms_min: Millis32 = 45_000  # what a group's own config may ask for
    consumer_session_timeout_ms_max: Millis32 = 60_000
    consumer_heartbeat_interval_ms_min: Millis32 = 5_000
    consumer_heartbeat_interval_ms_max: Millis32 = 15_000
    offsets_retention_ms: Positive = 7 * DAY_MS
    offset_metadata_bytes_max: Annotated[int, Field(ge=0, le=INT32_MAX)] = 4096

    @model_validator(mode="after")
    def _relations(self) -> GroupsConfig:
        if self.session_timeout_ms_min > self.session_timeout_ms_max:
            raise ValueError("session_timeout_ms_min is above session_timeout_ms_max")
        if self.consumer_heartbeat_interval_ms >= self.consumer_session_timeout_ms:
            raise ValueError("consumer_heartbeat_interval_ms must be below consumer_session_timeout_ms")
        for name in ("consumer_session_timeout_ms", "consumer_heartbeat_interval_ms"):
            if not getattr(self, f"{name}_min") <= getattr(self, name) <= getattr(self, f"{name}_max"):
                raise ValueError(f"{name} must lie between {name}_min and {name}_max")
        return self


class QueuesConfig(Section):
    """`[queues]`: queue groups, which share groups and native subscribers are. Limits are of one group's partition."""

    groups_max: Count = 10_000
    members_max: Count = 10_000  # in one group
    broadcast_expiry_ms: Unlimited = 7 * DAY_MS  # a broadcast group without members is forgotten
    window_offsets_max: Annotated[int, Field(ge=1, le=16_777_216)] = 1_048_576  # between first not done and last out
    leased_bytes_max: Annotated[int, Field(ge=64 * 1024, le=INT64_MAX)] = 256 * MIB  # of batches that members have
    failed_max: Count = 100_000  # messages that wait to be tried again
    held_max: Count = 100_000  # messages that wait for their key's turn
    read_bytes: Annotated[int, Field(ge=4096, le=64 * MIB)] = 256 * 1024  # read ahead for the members

    @model_validator(mode="after")
    def _relations(self) -> QueuesConfig:
        if self.read_bytes > self.leased_bytes_max:
            raise ValueError("read_bytes is above leased_bytes_max: what is read could not be handed out")
        return self


class TransactionsConfig(Section):
    """`[transactions]`: idempotent and transactional producers."""

    timeout_ms_max: Millis32 = 900_000  # the longest a producer may ask for
    id_expiry_ms: Millis32 = 7 * DAY_MS  # an unused transactional id is forgotten
    producer_id_expiry_ms: Millis32 = DAY_MS  # an idempotent producer's sequences are forgotten
    ids_max: Count = 1_000_000


class TracingConfig(Section):
    """`[tracing]`: traces of messages (topic config `trace`), and where they are sent."""

    region: Annotated[str, Field(max_length=100)] = ""  # stands in every trace
    retention_ms: Unlimited = 3 * DAY_MS
    retention_bytes: Unlimited = 1024 * MIB
    otlp_endpoint: str = ""  # http://host:4318/v1/traces: spans for OpenTelemetry; empty: none


class LimitsConfig(Section):
    """`[limits]`: what one peer, and all together, may take."""

    connections_max: Count = 10_000
    connection_idle_ms_max: Positive = 600_000
    request_bytes_max: Annotated[int, Field(ge=1024, le=INT32_MAX)] = 100 * MIB
    request_memory_bytes_max: Positive = 256 * MIB  # requests being read or handled, over all connections
    response_memory_bytes_max: Positive = 256 * MIB  # answers not yet sent, over all connections
    connection_output_bytes_max: Positive = 64 * MIB
    fetch_bytes_max: Annotated[int, Field(ge=1024, le=INT32_MAX)] = 55 * MIB
    fetch_sessions_max: Annotated[int, Field(ge=0, le=INT32_MAX)] = 1_000
    send_timeout_ms_max: Millis32 = 30_000  # a peer that reads nothing for so long is cut
    drain_ms_max: Annotated[int, Field(ge=0, le=INT32_MAX)] = 10_000  # a clean stop waits this long for begun requests

    @model_validator(mode="after")
    def _relations(self) -> LimitsConfig:
        if self.request_memory_bytes_max < self.request_bytes_max:
            raise ValueError(
                "request_memory_bytes_max is below request_bytes_max: the largest request could not be read"
            )
        if self.response_memory_bytes_max < self.fetch_bytes_max:
            raise ValueError("response_memory_bytes_max is below fetch_bytes_max: the largest answer could not be sent")
        if self.connection_output_bytes_max < self.fetch_bytes_max:
            raise ValueError(
                "connection_output_bytes_max is below fetch_bytes_max: the largest answer could not be sent"
            )
        return self


class LogConfig(Section):
    """`[log]`: the broker's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section):
    """The whole configuration. Sections are one word, so that TRIVIUM_SECTION_KEY splits at its second underscore."""

    store: StoreConfig = Field(default_factory=StoreConfig)
    kafka: KafkaConfig = Field(default_factory=KafkaConfig)
    mqtt: MqttConfig = Field(default_factory=MqttConfig)
    native: NativeConfig = Field(default_factory=NativeConfig)
    topics: TopicsConfig = Field(default_factory=TopicsConfig)
    groups: GroupsConfig = Field(default_factory=GroupsConfig)
    queues: QueuesConfig = Field(default_factory=QueuesConfig)
    transactions: TransactionsConfig = Field(default_factory=TransactionsConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @model_validator(mode="after")
    def _relations(self) -> Config:
        if self.topics.message_bytes_max >= self.limits.request_bytes_max:
            raise ValueError(
                "topics.message_bytes_max must be below limits.request_bytes_max, or no request can carry it"
            )
        return self


def sections() -> dict[str, type[Section]]:
    """Every section's name and model."""
    found: dict[str, Any] = {name: field.annotation for name, field in Config.model_fields.items()}
    return found
