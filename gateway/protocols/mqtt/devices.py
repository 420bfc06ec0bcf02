"""What the broker knows of a client beside its session: where it is in the log, and its connection if there is one.

A device is *live* when it has got everything that was handed on, up to the tail's position. One that is not live has a
cursor: `position`, before which everything was delivered or is in flight, and `offsets`, the partitions that stand
elsewhere. Nothing is copied for it: the log is its queue.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.filters import is_wildcard, matches
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.admission import Access
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.message import Message
from gateway.protocols.mqtt.session import Session, Subscription

NOT_STORED_S = -1
RetainedMessages = Iterator[tuple[Message, int, bytes]]  # message, granted QoS, subscription identifiers


class Device:
    """One client identifier's session in the broker."""

    __slots__ = (
        "access",
        "backlog_left",
        "catching_up",
        "closing",
        "connection",
        "cut",
        "dirty",
        "groups",
        "has_will",
        "live",
        "no_local",
        "offsets",
        "pending",
        "position",
        "published",
        "queued",
        "retained",
        "returned",
        "selective",
        "session",
        "stored",
        "stored_expiry_s",
        "stored_out",
        "user",
    )

    def __init__(self, session: Session, position: int) -> None:
        self.session = session
        self.connection: Connection | None = None
        self.live = False
        self.position = position
        self.offsets: dict[int, int] = {}
        self.pending = False  # something may have come since it left the tail
        self.catching_up = False
        self.queued = False
        self.dirty = False  # its stored position is behind
        self.no_local = 0  # subscriptions with the no-local option
        self.selective = 0  # subscriptions with a filter over properties
        self.retained: list[RetainedMessages] = []
        self.stored_out: set[int] = set()  # outbound packet ids with an entry in the log
        self.closing: Connection | None = None  # the last connection, whose answers may be on their way
        self.groups: list[str] = []  # the shared subscriptions that it is a member of or has something of
        self.has_will = False  # the connection's will stands in the log
        self.stored = False  # the session has rows in the log
        self.stored_expiry_s = session.expiry_s  # NOT_STORED_S: what is stored may be another
        self.returned = 0  # the tail's position when its connection was accepted
        self.backlog_left = 0  # messages from before that which it may still get
        self.cut = False  # some were left out
        self.published = 0  # the publisher's turn in which something came from it last
        self.user: str | None = None  # the name that its connection gave
        self.access: Access | None = None  # None: it may do everything

    def settled(self) -> bool:
        """Whether a new connection may take the session over."""
        if self.closing is not None and self.closing.unanswered == 0:
            self.closing = None
        return self.connection is None and self.closing is None

    def granted(self, name: str, position: int, publisher: str | None) -> tuple[int, bool, list[int]] | None:
        """(QoS, retain as published, identifiers) of its subscriptions that match, None if none does.

        `position` is the message's: subscriptions made later do not count. Shared ones are not looked at.
        """
        qos, published = -1, False
        identifiers: list[int] = []
        for filter_, subscription in (self.session.subscriptions or {}).items():
            if subscription.since > position or filter_.startswith("$share/"):
                continue
            if subscription.no_local and publisher == self.session.client_id:
                continue
            if filter_ == name or (is_wildcard(filter_) and matches(filter_, name)):
                qos = max(qos, subscription.qos)
                published = published or subscription.retain_as_published
                if subscription.identifier:
                    identifiers.append(subscription.identifier)
        return None if qos < 0 else (qos, published, identifiers)

    def selections(self, name: str, position: int | None = None) -> frozenset[str]:
        """The filters over properties of its subscriptions that match; empty when one of them has none."""
        if not self.selective:
            return frozenset()
        found = {
            subscription.selection
            for filter_, subscription in (self.session.subscriptions or {}).items()
            if not filter_.startswith("$share/")
            and matches(filter_, name)
            and (position is None or subscription.since <= position)
        }
        return frozenset() if "" in found else frozenset(found)

    def add(self, filter_: str, subscription: Subscription) -> bool:
        """Adds or replaces a subscription; True if it is new."""
        if self.session.subscriptions is None:
            self.session.subscriptions = {}
        old = self.session.subscriptions.get(filter_)
        self.session.subscriptions[filter_] = subscription
        if old is not None:
            self._uncount(old)
        self.no_local += subscription.no_local
        self.selective += bool(subscription.selection)
        return old is None

    def remove(self, filter_: str) -> bool:
        old = (self.session.subscriptions or {}).pop(filter_, None)
        if old is not None:
            self._uncount(old)
        return old is not None

    def _uncount(self, subscription: Subscription) -> None:
        self.no_local -= subscription.no_local
        self.selective -= bool(subscription.selection)

    def filters(self) -> list[str]:
        """Those of its own cursor: shared subscriptions have theirs."""
        return [filter_ for filter_ in self.session.subscriptions or {} if not filter_.startswith("$share/")]

    @property
    def present(self) -> bool:
        return self.connection is not None

    @property
    def name(self) -> str:
        return self.session.client_id

    def give_up(self) -> None:
        """Ends the connection for a fault of ours."""
        if self.connection is not None:
            self.connection.disconnect(reasons.UNSPECIFIED, "delivery failed")
