"""Wills that are being published, each with the end of what is stored of it in the same append.

One that finds no room is due again later. One that is refused for good is void, as is one that is refused after its
client came back: what is stored is then of the client's next will.
"""

from __future__ import annotations

from collections.abc import Callable

from core import sessions as stored
from core.state import Change
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Will
from gateway.protocols.mqtt.outgoing import Outgoing

_TICKET = 1


class DueWill:
    """One of them, told by the publisher what became of it."""

    def __init__(self, due: DueWills, client_id: str, will: Will) -> None:
        self._due = due
        self.client_id = client_id
        self.will = will
        self.changes: list[Change] = [stored.will_change(client_id, None)]

    def outgoing(self) -> Outgoing:
        will = self.will
        properties = {key: value for key, value in will.properties.items() if key != props.WILL_DELAY}
        return Outgoing(self, _TICKET, will.topic, will.payload, will.qos, will.retain, properties, None, self.changes)

    def publish_done(self, ticket: int, code: int, reason: str) -> None:
        self._due.answered(self, code)

    def publishes_done(self, first_ticket: int, last_ticket: int) -> None:
        self._due.answered(self, reasons.SUCCESS)


class DueWills:
    """`again(client_id, will)` is called for one that found no room, `void(client_id)` for one that is refused."""

    def __init__(self, again: Callable[[str, Will], None], void: Callable[[str], None]) -> None:
        self._again = again
        self._void = void
        self._under_way: dict[str, DueWill] = {}

    def add(self, client_id: str, will: Will) -> Outgoing:
        """To be published."""
        due = self._under_way[client_id] = DueWill(self, client_id, will)
        return due.outgoing()

    def client_back(self, client_id: str) -> bool:
        """Whether one of the client's is under way: what is stored of it ends with what is stored now."""
        due = self._under_way.pop(client_id, None)
        if due is None:
            return False
        due.changes.clear()  # if it still waits for its topic, it would take away the next will
        return True

    def answered(self, due: DueWill, code: int) -> None:
        if self._under_way.get(due.client_id) is not due:
            return  # the client has been back
        del self._under_way[due.client_id]
        if code == reasons.QUOTA_EXCEEDED:
            self._again(due.client_id, due.will)
        elif code != reasons.SUCCESS:
            self._void(due.client_id)
