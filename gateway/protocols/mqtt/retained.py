"""Retained messages for new subscriptions, as MQTT sees them (core.retained keeps them).

They are sent behind SUBACK, and as there is room for them: they are looked up then. Names that something was published
under since the SUBSCRIBE are left out, for their subscriber gets that as new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from core.filters import is_wildcard, scan
from core.retained import RetainedTable
from core.selectors import selector_of
from core.topic_mapping import TopicMapping
from core.topics import Topics
from gateway.protocols.mqtt.devices import RetainedMessages
from gateway.protocols.mqtt.message import Message
from gateway.protocols.mqtt.records import message_of
from gateway.protocols.mqtt.session import Subscription
from gateway.protocols.mqtt.subscribers import encoded_identifiers

ALL: Final = 1 << 63  # an offset behind all: a topic that came to retain its last messages after the SUBSCRIBE


class Retained:
    """`of_broker` gives those under `$SYS`; `end` says up to which offset a partition was handed to subscribers."""

    def __init__(
        self,
        table: RetainedTable,
        topics: Topics,
        mapping: TopicMapping,
        of_broker: Callable[[str], Iterator[Message]],
        end: Callable[[int], int],
    ) -> None:
        self._table = table
        self._topics = topics
        self._mapping = mapping
        self._of_broker = of_broker
        self._end = end

    def ends(self) -> dict[int, int]:
        """Up to where what is retained now stands, for `messages`."""
        return {number: self._end(number) for number in self._table.sources() if self._topics.owner(number) is not None}

    def messages(self, filter_: str, subscription: Subscription, ends: Mapping[int, int]) -> RetainedMessages:
        """What a new subscription is sent first, looked up while it is asked for; `ends` are those of its SUBSCRIBE."""
        identifiers = encoded_identifiers([subscription.identifier] if subscription.identifier else [])
        if filter_.startswith("$SYS"):
            for message in self._of_broker(filter_):
                yield message, subscription.qos, identifiers
            return
        for name in scan(filter_, self._table) if is_wildcard(filter_) else [filter_]:
            found = self._message(name, subscription.selection, ends)
            if found is not None:
                yield found, subscription.qos, identifiers

    def _message(self, name: str, selection: str, ends: Mapping[int, int]) -> Message | None:
        found = self._table.get(name)
        if found is None or found.record.offset >= ends.get(found.partition, ALL):
            return None
        if selection and not selector_of(selection)(found.record):
            return None
        if found.partition != self._table.partition:
            owner = self._topics.owner(found.partition)
            if owner is None or not owner[0].settings.mqtt_visible:
                return None
        record = found.record._replace(key=name.encode())
        message = message_of(record, self._mapping.catch_all, found.partition, self._mapping)[1]
        message.retain = True  # records that others wrote do not say so
        return message
