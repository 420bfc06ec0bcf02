"""What the cells of the MQTT figures share: how large they are, the load generator, what was measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from interop.figures.results import Results
from interop.mqtt_figures.contenders import ALL, Contender, MqttBroker
from interop.places import MQTT_LOAD

LATE_S = 60  # what a load may take beyond its seconds


@dataclass(frozen=True)
class Scale:
    """How long (`seconds` of each flow) and how large: numbers of idle devices, stored sessions, those that return,
    retained messages."""

    seconds: float
    repeats: int
    idle: tuple[int, ...]
    sessions: int
    returning: int
    retained: int
    contenders: tuple[Contender, ...] = ALL


FULL = Scale(4, 1, (1_000, 8_000, 15_000), 1_000_000, 19_000, 10_000_000)
QUICK = Scale(2, 1, (500, 1_500), 20_000, 1_000, 20_000)


class LoadError(Exception):
    """The load generator failed; the text holds what it said."""


@dataclass
class Run:
    """One run of the figures: what was measured, and what is to be said about it. `partial`: of some contenders."""

    scale: Scale
    partial: bool = False
    results: Results = field(default_factory=Results)
    notes: list[str] = field(default_factory=list)

    def each(self, among: Iterable[Contender]) -> list[Contender]:
        return [one for one in among if one in self.scale.contenders]


class Load:
    """One process of the load generator."""

    def __init__(self, port: int, **options: float | str) -> None:
        self._limit_s = float(options.get("seconds", 5)) + LATE_S
        command = [str(MQTT_LOAD), "127.0.0.1", str(port), *(f"{name}={value}" for name, value in options.items())]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def event(self) -> dict[str, Any]:
        """The next thing it reports. Raises LoadError when it ends first."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._finish()
            raise LoadError("the load ended early")
        return dict(json.loads(line))

    def last(self) -> dict[str, Any]:
        """Waits for its end; the last thing it reported. Raises LoadError."""
        return dict(json.loads(self._finish().strip().splitlines()[-1]))

    def _finish(self) -> str:
        try:
            out, err = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            raise LoadError("the load did not end") from None
        finally:
            self._process.kill()
        if self._process.returncode:
            raise LoadError(" ".join((out + err)[-300:].split()))
        return out


def flow(broker: MqttBroker, **options: float | str) -> dict[str, Any]:
    return Load(broker.port, **options).last()
