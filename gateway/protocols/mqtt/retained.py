"""Retained messages for new subscriptions, as MQTT sees them (core.retained keeps them)."""

from __future__ import annotations

from core.filters import is_wildcard, scan
from core.retained import RetainedTable
from core.topic_mapping import TopicMapping
from gateway.protocols.mqtt.devices import RetainedMessages
from gateway.protocols.mqtt.live import encoded_identifiers
from gateway.protocols.mqtt.message import Message
from gateway.protocols.mqtt.records import message_of
from gateway.protocols.mqtt.selection import selector_of
from gateway.protocols.mqtt.session import Subscription


class Retained:
    def __init__(self, table: RetainedTable, mapping: TopicMapping) -> None:
        self._table = table
        self._mapping = mapping

    def messages(self, filter_: str, subscription: Subscription) -> RetainedMessages:
        """What a new subscription is sent first, looked up while it is asked for."""
        identifiers = encoded_identifiers([subscription.identifier] if subscription.identifier else [])
        for name in scan(filter_, self._table) if is_wildcard(filter_) else [filter_]:
            message = self._message(name, subscription.selection)
            if message is not None:
                yield message, subscription.qos, identifiers

    def _message(self, name: str, selection: str) -> Message | None:
        record = self._table.get(name)
        if record is None or (selection and not selector_of(selection)(record)):
            return None
        return message_of(record, self._mapping.catch_all, self._table.partition, self._mapping)[1]
