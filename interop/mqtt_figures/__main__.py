"""Prints the MQTT figures with mosquitto, nats-server and amqtt beside us: `python -m interop.mqtt_figures [--quick]`.

Writes docs/figures/mqtt.md. `--cell` measures that cell again and leaves the others on the page, `--contender` leaves
what the cell had of the others (kept in interop/.cache). `--quick` is for development: short runs, nothing written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace

from interop import setup
from interop.brokers import BrokerError
from interop.figures.__main__ import machine
from interop.figures.results import Results
from interop.mqtt_figures.cells import BY_NAME, CELLS, TITLES
from interop.mqtt_figures.running import FULL, QUICK, LoadError, Run
from interop.places import CACHE, REPOSITORY

PAGE = REPOSITORY / "docs" / "figures" / "mqtt.md"
KEPT = CACHE / "mqtt-figures.json"
AGAINST = "mosquitto"
INTRODUCTION = """\
Load generator, broker and peers share the machine; each contender runs alone, over an empty data directory. Ratios are
to mosquitto 2 without persistence: it writes nothing. `trivium sync` answers PUBLISH after fdatasync and shows no
subscriber what a power cut could take back; `trivium async` writes everything to its log too, and syncs every 0.2 s.
The load generator is `interop/mqtt_figures/load.c`. Made by `python -m interop.mqtt_figures`.
"""


def _table(results: Results, cell: str) -> str:
    return results.table(cell, AGAINST)


def keep(cell: str, run: Run) -> None:
    """Puts a cell's results in place of what was kept of it, but for contenders that were left out."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    measured = {contender for _, _, contender in run.results.values}
    values = [row for row in kept.get(cell, {}).get("values", []) if row[2] not in measured] if run.partial else []
    values += [[*key, run.results.units[key[0], key[1]], found] for key, found in run.results.values.items()]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    kept[cell] = {"date": today, "values": values, "notes": run.notes}
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(kept))


def write(cells: Iterable[str]) -> None:
    """Puts what was kept of these cells in their places on the page; the rest of it stays."""
    kept = json.loads(KEPT.read_text())
    _, *found = PAGE.read_text().split("\n## ") if PAGE.exists() else [""]
    sections = {text.partition(" (2")[0]: text.rstrip() for text in found}
    for cell in cells:
        results = Results()
        for name, case, contender, unit, values in kept[cell]["values"]:
            for value in values:
                results.add(name, case, contender, value, unit)
        notes = "\n".join(f"- {note}" for note in kept[cell]["notes"])
        text = f"{TITLES[cell]} ({kept[cell]['date']})\n\n{_table(results, cell)}\n\n{notes}"
        sections[TITLES[cell]] = text.rstrip()
    order = [*TITLES.values()]
    known = sorted(sections, key=lambda title: order.index(title) if title in order else len(order))
    head = f"# Figures: MQTT\n\n{machine()}.\n{INTRODUCTION}"
    PAGE.write_text(head + "".join(f"\n## {sections[title]}\n" for title in known))
    print(f"written: {PAGE}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short and small, nothing written")
    parser.add_argument("--cell", action="append", choices=list(CELLS), help="this cell; may be repeated")
    parser.add_argument("--contender", action="append", choices=list(BY_NAME), help="this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=0, help="of each flow")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=0, help="stored sessions, and subscriptions")
    parser.add_argument("--retained", type=int, default=0, help="retained messages")
    options = parser.parse_args()
    setup.mqtt_load()
    scale = QUICK if options.quick else FULL
    scale = replace(
        scale,
        seconds=options.seconds or scale.seconds,
        repeats=options.repeats or scale.repeats,
        sessions=options.sessions or scale.sessions,
        retained=options.retained or scale.retained,
        contenders=tuple(BY_NAME[name] for name in options.contender) if options.contender else scale.contenders,
    )
    failed = False
    for cell in options.cell or list(CELLS):
        run, began = Run(scale, partial=bool(options.contender)), time.monotonic()
        try:
            CELLS[cell](run)
        except (BrokerError, LoadError) as error:
            run.notes.append(f"{cell} broke off: {' '.join(str(error).split())[:400]}")
            failed = True
        print(f"\n## {TITLES[cell]}  ({time.monotonic() - began:.0f} s)\n\n{_table(run.results, cell)}", flush=True)
        for note in run.notes:
            print(f"- {note}", flush=True)
        if not options.quick:
            keep(cell, run)
    if not options.quick:
        write(options.cell or list(CELLS))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
