"""What goes into and comes out of groups: requests, answers, limits. No protocol's own types: a front-end translates.

Times are milliseconds; `now_ms` is a monotonic clock, wall-clock times say so. An epoch or generation of -1 means "not
a member".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from core.errors import CoreError

NO_GENERATION = -1
MEMBER_PREFIX_CHARS_MAX = 8_000  # of a client's name in a generated member id, which Kafka must be able to carry
CONSUMER_PROTOCOL_TYPE = "consumer"


def generate_member_id(prefix: str) -> str:
    """A new member's id; it shows whose it is."""
    return f"{prefix[:MEMBER_PREFIX_CHARS_MAX]}-{uuid.uuid4()}"


Done = Callable[[CoreError | None], None]


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Limits and intervals; the names are those of the configuration's section `[groups]`."""

    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    members_max: int = 10_000
    consumer_session_timeout_ms: int = 45_000
    consumer_heartbeat_interval_ms: int = 5_000
    consumer_session_timeout_ms_min: int = 45_000  # what a group's own config may ask for
    consumer_session_timeout_ms_max: int = 60_000
    consumer_heartbeat_interval_ms_min: int = 5_000
    consumer_heartbeat_interval_ms_max: int = 15_000
    offsets_retention_ms: int = 7 * 86_400_000
    offset_metadata_bytes_max: int = 4096
    retention_check_interval_ms: int = 600_000
    new_member_join_timeout_ms: int = 300_000
    regex_refresh_interval_ms: int = 10_000
    groups_max: int = 100_000


class TopicView(Protocol):
    """A topic as groups see it; `core.topics.Topic` is one."""

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> bytes: ...

    @property
    def partitions(self) -> tuple[int, ...]: ...


class TopicTable(Protocol):
    """The topics that exist; `core.topics.Topics` is one."""

    def get(self, name: str) -> TopicView | None: ...

    def by_id(self, topic_id: bytes) -> TopicView | None: ...

    def all(self) -> Iterable[TopicView]: ...


class Client(NamedTuple):
    """Who asks: shown by describe."""

    id: str
    host: str


class JoinRequest(NamedTuple):
    """`protocols` are (name, metadata) in the member's order of preference."""

    group_id: str
    member_id: str
    instance_id: str | None
    client: Client
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: list[tuple[str, bytes]]
    needs_member_id: bool = True  # a new member must ask again with the id it is given (KIP-394)
    can_skip_assignment: bool = True  # a returning static leader can be told to leave the assignment as it is (KIP-814)


class JoinedMember(NamedTuple):
    member_id: str
    instance_id: str | None
    metadata: bytes


class JoinResult(NamedTuple):
    error: CoreError | None
    member_id: str
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: list[JoinedMember] = []  # noqa: RUF012 (never changed; only the leader gets any)


class SyncRequest(NamedTuple):
    """`assignments` come from the leader only; `protocol_type` and `protocol` are None when the client does not say."""

    group_id: str
    generation: int
    member_id: str
    instance_id: str | None
    protocol_type: str | None
    protocol: str | None
    assignments: list[tuple[str, bytes]]


class SyncResult(NamedTuple):
    error: CoreError | None
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


class LeavingMember(NamedTuple):
    """A static member may be named by its instance id alone (`member_id` empty)."""

    member_id: str
    instance_id: str | None


class LeaveResult(NamedTuple):
    error: CoreError | None
    members: list[tuple[LeavingMember, CoreError | None]] = []  # noqa: RUF012


class MemberView(NamedTuple):
    member_id: str
    instance_id: str | None
    client: Client
    metadata: bytes
    assignment: bytes


class GroupView(NamedTuple):
    """A classic group for describe. `state` uses Kafka's names, which all clients show."""

    group_id: str
    state: str
    protocol_type: str
    protocol: str
    members: list[MemberView]


class GroupListing(NamedTuple):
    group_id: str
    protocol_type: str
    state: str
    type: str  # "classic" or "consumer"


JoinReply = Callable[[JoinResult], None]
SyncReply = Callable[[SyncResult], None]
LeaveReply = Callable[[LeaveResult], None]
