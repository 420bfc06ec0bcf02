"""SUBSCRIBE and UNSUBSCRIBE: which are refused, and what a new subscription is sent first.

Changes are made at once and answered when they are durable, if the session is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from core.errors import CoreFailure
from core.filters import parse_filter
from core.selectors import InvalidFilter
from core.state import Change
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Subscribe
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.retained import Retained
from gateway.protocols.mqtt.selection import asked_selection
from gateway.protocols.mqtt.session import Subscription
from gateway.protocols.mqtt.session_rows import session_row

SUBSCRIPTIONS_MAX: Final = 10_000  # of one session
SELECTIVE_MAX: Final = 100  # of them with a filter over properties, whose texts are longer

Put: TypeAlias = Callable[[Connection, int | None, list[Change], Callable[[], object]], None]


class Subscribing:
    """`put` stores changes and then answers; `store_groups` has the places of shared subscriptions stored with them."""

    def __init__(self, deliveries: Deliveries, retained: Retained, put: Put, store_groups: Callable[[], None]) -> None:
        self._deliveries = deliveries
        self._retained = retained
        self._put = put
        self._store_groups = store_groups

    def subscribe(self, connection: Connection, ticket: int, subscribe: Subscribe) -> None:
        device = connection.user
        assert isinstance(device, Device)
        identifier = subscribe.properties.get(props.SUBSCRIPTION_ID, 0)
        codes: list[int] = []
        retained: list[tuple[str, Subscription]] = []
        reason = ""
        try:
            selection = asked_selection(subscribe.properties)
        except InvalidFilter as failure:
            connection.subscribe_done(ticket, [reasons.IMPLEMENTATION_ERROR] * len(subscribe.requests), str(failure))
            return
        for request in subscribe.requests:
            refusal = self._refusal(device, request.filter, selection)
            if refusal is not None:
                codes.append(refusal[0])
                reason = reason or refusal[1]
                continue
            old = (device.session.subscriptions or {}).get(request.filter)
            since = old.since if old is not None else self._deliveries.tail.position
            subscription = Subscription(*request[1:], identifier, since, selection)
            new = self._deliveries.subscribe(device, request.filter, subscription)
            codes.append(request.qos)
            if request.filter.startswith("$share/"):
                continue  # retained messages are not for shared subscriptions
            if request.retain_handling == 0 or (request.retain_handling == 1 and new):
                retained.append((request.filter, subscription))
        ends = self._retained.ends() if retained else {}
        done = partial(self._subscribed, device, connection, ticket, codes, reason, retained, ends)
        if device.session.durable:
            self._store_groups()
            self._put(connection, ticket, [session_row(device.session)], done)
        else:
            done()

    def _refusal(self, device: Device, filter_: str, selection: str) -> tuple[int, str] | None:
        """Why a subscription cannot be made: code and words."""
        _, plain, problem = parse_filter(filter_)
        if problem is not None:
            return reasons.TOPIC_FILTER_INVALID, problem
        if plain.startswith("__"):
            return reasons.NOT_AUTHORIZED, "names that begin with __ are the broker's own"
        if self._deliveries.subscribers.hides(plain):
            return reasons.NOT_AUTHORIZED, "the topic is not for MQTT"
        subscriptions = device.session.subscriptions or {}
        if len(subscriptions) >= SUBSCRIPTIONS_MAX and filter_ not in subscriptions:
            return reasons.QUOTA_EXCEEDED, f"more than {SUBSCRIPTIONS_MAX} subscriptions"
        if selection and device.selective >= SELECTIVE_MAX and filter_ not in subscriptions:
            return reasons.QUOTA_EXCEEDED, f"more than {SELECTIVE_MAX} subscriptions with a filter"
        group = self._deliveries.subscribers.groups.get(filter_)
        if group is not None:
            try:
                group.check_join(device.session.client_id, group.reads(selection))
            except CoreFailure as failure:
                return reasons.IMPLEMENTATION_ERROR, failure.message
        return None

    def _subscribed(
        self,
        device: Device,
        connection: Connection,
        ticket: int,
        codes: list[int],
        reason: str,
        retained: list[tuple[str, Subscription]],
        ends: dict[int, int],
    ) -> None:
        connection.subscribe_done(ticket, codes, reason)
        if len(device.retained) + len(retained) > SUBSCRIPTIONS_MAX:
            connection.disconnect(reasons.QUOTA_EXCEEDED, "too many subscriptions wait for retained messages")
        elif device.connection is connection and retained:
            for filter_, subscription in retained:
                device.retained.append(self._retained.messages(filter_, subscription, ends))
            self._deliveries.catching_up.deliver_retained(device)

    def unsubscribe(self, connection: Connection, ticket: int, filters: list[str]) -> None:
        device = connection.user
        assert isinstance(device, Device)
        codes = [
            reasons.SUCCESS if self._deliveries.unsubscribe(device, filter_) else reasons.NO_SUBSCRIPTION_EXISTED
            for filter_ in filters
        ]
        if device.session.durable and reasons.SUCCESS in codes:
            done = partial(connection.unsubscribe_done, ticket, codes)
            self._put(connection, ticket, [session_row(device.session)], done)
        else:
            connection.unsubscribe_done(ticket, codes)
