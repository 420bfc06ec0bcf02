"""`trivium groups`: what one does to groups of a running broker, over its native port."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import click

from trivium.errors import TriviumError

DEFAULT_BROKER = "127.0.0.1:9876"


@click.group()
def groups() -> None:
    """Groups of a running broker."""


@groups.command("reset")
@click.argument("name")
@click.option("--to-earliest", is_flag=True, help="To the beginning of what is kept.")
@click.option("--to-latest", is_flag=True, help="To the end.")
@click.option(
    "--to-time", metavar="TIME", help="To the first record with this time: ISO 8601 (UTC unless it says) or ms."
)
@click.option("--to-offset", type=click.IntRange(min=0), help="To this offset, in every partition.")
@click.option(
    "--topic", "topics", multiple=True, help="Only this topic; may be given again. [all that the group reads]"
)
@click.option(
    "--kind",
    type=click.Choice(["group", "queue", "session"]),
    default="group",
    help="What NAME is; a session is an MQTT client id, or $share/... [group]",
)
@click.option("--broker", default=DEFAULT_BROKER, metavar="HOST:PORT", help=f"The native port. [{DEFAULT_BROKER}]")
def reset(
    name: str,
    to_earliest: bool,
    to_latest: bool,
    to_time: str | None,
    to_offset: int | None,
    topics: tuple[str, ...],
    kind: Literal["group", "queue", "session"],
    broker: str,
) -> None:
    """Have NAME go on somewhere else, while it runs: its clients are neither restarted nor asked.

    Prints topic, partition and offset of every place. What was committed or acknowledged before cannot undo it.
    """
    from trivium.blocking import connect
    from trivium.frames.offsets import EARLIEST, LATEST

    if sum([to_earliest, to_latest, to_time is not None, to_offset is not None]) != 1:
        raise click.UsageError("give one of --to-earliest, --to-latest, --to-time, --to-offset")
    to = EARLIEST if to_earliest else LATEST if to_latest else None if to_time is None else time_ms(to_time)
    try:
        with connect(broker) as client:
            places = client.reset(name, to, offset=to_offset, topics=topics, kind=kind)
    except (TriviumError, ValueError) as error:
        click.echo(f"trivium: {error}", err=True)
        raise SystemExit(1) from None
    for (topic, partition), offset in sorted(places.items()):
        click.echo(f"{topic} {partition} {offset}")


def time_ms(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time: give 2026-01-31T12:00:00, or milliseconds") from None
    return int((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)
