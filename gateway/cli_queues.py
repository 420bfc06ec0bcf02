"""`trivium queue`: what one does to queue groups of a running broker, over its native port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gateway.cli_groups import DEFAULT_BROKER
from trivium.errors import TriviumError

if TYPE_CHECKING:
    from trivium.blocking import Client

VALUE_CHARS_MAX = 200
LETTERS_AT_ONCE = 500


@click.group("queue")
@click.option("--broker", default=DEFAULT_BROKER, metavar="HOST:PORT", help=f"The native port. [{DEFAULT_BROKER}]")
@click.pass_context
def queue(context: click.Context, broker: str) -> None:
    """Queue groups of a running broker, and their dead letters."""
    context.obj = broker


@contextmanager
def _client(broker: str) -> Iterator[Client]:
    from trivium.blocking import connect

    try:
        with connect(broker) as client:
            yield client
    except (TriviumError, ValueError) as error:
        click.echo(f"trivium: {error}", err=True)
        raise SystemExit(1) from None


def _verb(name: str, done: str, method: str) -> None:
    @queue.command(name, help=done)
    @click.argument("group")
    @click.pass_obj
    def run(broker: str, group: str) -> None:
        with _client(broker) as client:
            getattr(client, method)(group)


_verb("pause", "Hand nothing to GROUP until it is resumed, also over restarts.", "pause_queue")
_verb("resume", "Hand messages to GROUP again.", "resume_queue")
_verb("delete", "Forget GROUP, which has no members; its dead letters stay.", "delete_queue")


@queue.command("list")
@click.pass_obj
def list_(broker: str) -> None:
    """Every queue group: name, members, messages not done, how many of these have failed, and what it reads.

    Not done are those that nobody has got yet, those that members have, those that wait for the one before them of
    their key, and those that failed or were given back. What a filter leaves out, and what the log holds beside
    messages (ends of transactions, gaps of compaction), counts until the group has come by it.
    """
    with _client(broker) as client:
        for info in client.describe_queues():
            left = sum(place.left for place in info.places)
            failed = sum(place.failed for place in info.places)
            state = " paused" if info.paused else ""
            click.echo(f"{info.group} {len(info.members)} {left} {failed}{state} {info.subscription}")


@queue.command()
@click.argument("group")
@click.pass_obj
def describe(broker: str, group: str) -> None:
    """Subscription, policy, members and partitions of GROUP."""
    with _client(broker) as client:
        (info,) = client.describe_queues(group)
    click.echo(f"reads: {info.subscription or 'nothing yet'}{' (paused)' if info.paused else ''}")
    click.echo(f"invisible: {info.invisible_ms} ms, attempts: {info.attempts_max}, rejoin: {info.rejoin_ms} ms")
    click.echo(f"backoff: {' '.join(map(str, info.backoff_ms))} ms")
    for member in info.members:
        click.echo(f"member {member.member} ({member.client}) has {member.held}")
    for place in info.places:
        where = f"{place.topic} {place.partition}"
        counts = f"held {place.held} failed {place.failed} not done {place.left}"
        click.echo(f"{where} floor {place.floor} end {place.end} of {place.log_end} {counts}")


@queue.command()
@click.argument("group")
@click.option("--invisible-ms", type=click.IntRange(min=1), help="How long a message is invisible.")
@click.option("--attempts", type=click.IntRange(min=1), help="How often it is tried.")
@click.option("--rejoin-ms", type=click.IntRange(min=0), help="How long a lost member keeps what it had.")
@click.option(
    "--backoff-ms", "backoff_ms", type=int, multiple=True, help="Wait after failure 1, 2, ...; once for each."
)
@click.pass_obj
def configure(
    broker: str,
    group: str,
    invisible_ms: int | None,
    attempts: int | None,
    rejoin_ms: int | None,
    backoff_ms: tuple[int, ...],
) -> None:
    """Say how GROUP retries; what is not given stays."""
    with _client(broker) as client:
        given = {"invisible_ms": invisible_ms, "attempts_max": attempts, "rejoin_ms": rejoin_ms}
        change = {name: value for name, value in given.items() if value is not None}
        client.configure_queue(group, backoff_ms=backoff_ms, **change)


@queue.command("dead-letters")
@click.argument("group")
@click.option("--from", "offset", type=click.IntRange(min=0), default=0, help="The first dead letter to show. [0]")
@click.option("--count", type=click.IntRange(min=1), default=100, help="How many at most. [100]")
@click.pass_obj
def dead_letters(broker: str, group: str, offset: int, count: int) -> None:
    """The dead letters of GROUP: number, where the message was, attempts, reason, key, value."""
    with _client(broker) as client:
        while count > 0:
            found = client.dead_letters(group, offset=offset, count=min(count, LETTERS_AT_ONCE))
            for one in found:
                where = f"{one.topic}/{one.partition}/{one.message_offset}"
                click.echo(f"{one.offset} {where} {one.attempts} {one.reason!r} {_short(one.key)} {_short(one.value)}")
            if not found:
                return
            count -= len(found)
            offset = found[-1].offset + 1


@queue.command()
@click.argument("group")
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(min=0))
@click.pass_obj
def resend(broker: str, group: str, numbers: tuple[int, ...]) -> None:
    """Hand the dead letters NUMBERS of GROUP to it again."""
    with _client(broker) as client:
        client.resend_dead_letters(group, numbers)


def _short(data: bytes | None) -> str:
    return "-" if data is None else repr(data.decode(errors="replace"))[:VALUE_CHARS_MAX]
