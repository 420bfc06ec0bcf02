"""`trivium trace`: what happened to messages, asked of a running broker over its native port."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from gateway.cli_groups import DEFAULT_BROKER, time_ms
from trivium.errors import TriviumError
from trivium.frames.traces import TraceEvent

_EVENTS = {int(event): event.name.lower() for event in TraceEvent}


@click.command("trace")
@click.argument("message_id", required=False, default="")
@click.option("--topic", default="", help="The topic; alone: everything that happened in it.")
@click.option("--key", help="Of the topic's messages with this key.")
@click.option("--place", metavar="PARTITION:OFFSET", help="Of the message at this place of the topic.")
@click.option("--since", metavar="TIME", help="From this time on: ISO 8601 (UTC), or ms.")
@click.option("--until", metavar="TIME", help="Up to this time.")
@click.option("--broker", default=DEFAULT_BROKER, metavar="HOST:PORT", help=f"The native port. [{DEFAULT_BROKER}]")
def trace(
    message_id: str, topic: str, key: str | None, place: str | None, since: str | None, until: str | None, broker: str
) -> None:
    """Print what happened to a message (by MESSAGE_ID, --key or --place), in a topic, or in all that are traced.

    A line for each event: time, event, topic, partition, offsets, group, attempt, protocol, client, host, region.
    Topics are traced if their config `trace` is `on`, or `marked` (then messages with a header trivium.trace).
    """
    import anyio

    if (key is not None or place) and not topic:
        raise click.UsageError("--key and --place need --topic")
    if (bool(message_id), key is not None, bool(place)).count(True) > 1 or (message_id and topic):
        raise click.UsageError("give a MESSAGE_ID, or --topic with or without --key or --place")
    where = _place(place) if place else (None, None)
    times = {"since_ms": time_ms(since) if since else 0, "until_ms": time_ms(until) if until else 2**62}

    async def show() -> None:
        from trivium.client import connect

        async with connect(broker) as client:
            wanted = {"message_id": message_id, "topic": topic, "key": None if key is None else key.encode(), **times}
            async for one in client.traces(partition=where[0], offset=where[1], **wanted):  # type: ignore[arg-type]
                when = datetime.fromtimestamp(one.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
                offsets = str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
                event = _EVENTS.get(one.event, str(one.event))
                fields = [when, event, one.topic, one.partition, offsets, one.group or "-", one.attempt or "-"]
                fields += [one.protocol or "-", one.client or "-", one.host or "-", one.region or "-"]
                click.echo(" ".join(map(str, fields)))

    try:
        anyio.run(show)
    except (TriviumError, ValueError) as error:
        click.echo(f"trivium: {error}", err=True)
        raise SystemExit(1) from None


def _place(text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise click.BadParameter(f"{text!r} is no place: give PARTITION:OFFSET")
    return int(partition), int(offset)
