"""Retained messages for new subscriptions, as MQTT sees them (core.retained keeps them)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


class Retained:
    """`of_broker` gives those under `$SYS`."""

    def __init__(
        self,
        table: RetainedTable,
        topics: Topics,
        mapping: TopicMapping,
        of_broker: Callable[[str], Iterator[Message]],
    ) -> None:
        self._table = table
        self._topics = topics
        self._mapping = mapping
        self._of_broker = of_broker

    def messages(self, filter_: str, subscription: Subscription) -> RetainedMessages:
        """What a new subscription is sent first, looked up while it is asked for."""
        identifiers = encoded_identifiers([subscription.identifier] if subscription.identifier else [])
        if filter_.startswith("$SYS"):
            for message in self._of_broker(filter_):
                yield message, subscription.qos, identifiers
            return
        for name in scan(filter_, self._table) if is_wildcard(filter_) else [filter_]:
            found = self._message(name, subscription.selection)
            if found is not None:
                yield found, subscription.qos, identifiers

    def _message(self, name: str, selection: str) -> Message | None:
        found = self._table.get(name)
        if found is None or (selection and not selector_of(selection)(found.record)):
            return None
        if found.partition != self._table.partition:
            owner = self._topics.owner(found.partition)
            if owner is None or not owner[0].settings.mqtt_visible:
                return None
        record = found.record._replace(key=name.encode())
        message = message_of(record, self._mapping.catch_all, found.partition, self._mapping)[1]
        message.retain = True  # records that others wrote do not say so
        return message
