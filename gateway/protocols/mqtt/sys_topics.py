"""`$SYS`: the broker's figures under mosquitto's names, answered to subscribers and never in the log.

A subscription gets what it matches as retained messages; every `interval_s` what has changed follows, at QoS 0. Loads
are moving averages over 1, 5 and 15 minutes of a counter's growth per minute, computed as mosquitto does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp
from typing import Final, NamedTuple

from core.filters import matches
from gateway.protocols.mqtt.message import Message

PREFIX: Final = "$SYS/broker/"
_LOADS: Final = (  # name under load/, the counter
    ("messages/received", "messages/received"),
    ("messages/sent", "messages/sent"),
    ("publish/dropped", "publish/messages/dropped"),
    ("publish/received", "publish/messages/received"),
    ("publish/sent", "publish/messages/sent"),
    ("bytes/received", "bytes/received"),
    ("bytes/sent", "bytes/sent"),
    ("sockets", "connections/socket/count"),
    ("connections", "connections/count"),
)
_MINUTES: Final = (1, 5, 15)
_MAXIMA: Final = {"clients/maximum": "clients/total", "heap/maximum": "heap/current"}
_ALIASES: Final = {
    "clients/active": "clients/connected",
    "clients/inactive": "clients/disconnected",
    "store/messages/count": "messages/stored",
}


class SysValue(NamedTuple):
    name: str
    message: Message


class SysTopics:
    """`read` gives the counters and gauges, by their names under `$SYS/broker/`; `now_s` is monotonic time."""

    def __init__(self, version: str, interval_s: float, read: Callable[[], dict[str, int]], now_s: float) -> None:
        self._interval_s = interval_s
        self._read = read
        self._started_s = self._updated_s = now_s
        self._values: dict[str, Message] = {}
        self._counters = read()
        self._maxima = dict.fromkeys(_MAXIMA, 0)
        self._loads = {(load, minutes): 0.0 for load, _ in _LOADS for minutes in _MINUTES}
        if interval_s:
            self._set("version", f"trivium version {version}")
            self._update(now_s)

    def update(self, now_s: float) -> list[SysValue]:
        """What has changed, if the interval is over; to be called about once a second."""
        if not self._interval_s or now_s < self._updated_s + self._interval_s:
            return []
        return self._update(now_s)

    def retained(self, filter_: str) -> Iterator[Message]:
        """What a new subscription gets, RETAIN set."""
        for name, message in list(self._values.items()):
            if matches(filter_, name):
                yield Message(message.topic, message.payload, 0, True)

    def _update(self, now_s: float) -> list[SysValue]:
        passed_s = now_s - self._updated_s
        self._updated_s = now_s
        now = self._read()
        texts = {"uptime": f"{int(now_s - self._started_s)} seconds"}
        texts.update({name: str(value) for name, value in now.items()})
        texts.update({name: str(now[of]) for name, of in _ALIASES.items()})
        for name, of in _MAXIMA.items():
            self._maxima[name] = max(self._maxima[name], now[of])
            texts[name] = str(self._maxima[name])
        for load, counter in _LOADS:
            grown = now[counter] - self._counters[counter]
            for minutes in _MINUTES:
                if passed_s > 0:
                    rate = grown * 60.0 / passed_s
                    fading = exp(-passed_s / (60.0 * minutes))
                    self._loads[load, minutes] = rate + fading * (self._loads[load, minutes] - rate)
                texts[f"load/{load}/{minutes}min"] = f"{self._loads[load, minutes]:.2f}"
        self._counters = now
        changed = [self._set(name, text) for name, text in texts.items()]
        return [value for value in changed if value is not None]

    def _set(self, name: str, text: str) -> SysValue | None:
        """The value, if it is another than before."""
        topic, payload = PREFIX + name, text.encode()
        known = self._values.get(topic)
        if known is not None and known.payload == payload:
            return None
        message = self._values[topic] = Message(topic.encode(), payload, 0)
        return SysValue(topic, message)
