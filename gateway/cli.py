"""The `trivium` command. Each verb imports what it needs when it runs, so that starting costs only what is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gateway.cli_groups import groups
from gateway.cli_queues import queue
from gateway.cli_traces import trace
from gateway.compiled import CompileError, compile_modules, is_outdated
from gateway.compiled import use as use_compiled

EXIT_CONFIG = 2
EXIT_IN_USE = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="trivium-broker", prog_name="trivium")
def main() -> None:
    """Trivium: Kafka clients, MQTT devices and a native SDK on one durable log."""


main.add_command(groups)
main.add_command(trace)
main.add_command(queue)


@main.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file (TOML).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the log is kept.")
@click.option("--kafka", metavar="HOST:PORT", help="Where Kafka clients connect [127.0.0.1:9092]; port 0: a free one.")
@click.option("--kafka-advertised", metavar="HOST:PORT", help="The address given to Kafka clients to connect to.")
@click.option("--mqtt", metavar="HOST:PORT", help="Where MQTT devices connect [127.0.0.1:1883].")
@click.option("--mqtts", metavar="HOST:PORT", help="Where devices connect over TLS.")
@click.option("--mqtt-ws", metavar="HOST:PORT", help="Where devices connect over WebSocket.")
@click.option("--mqtt-wss", metavar="HOST:PORT", help="Where devices connect over WebSocket and TLS.")
@click.option("--mqtt-certificate", type=click.Path(path_type=Path), help="Certificate (PEM) of --mqtts, --mqtt-wss.")
@click.option("--mqtt-key", type=click.Path(path_type=Path), help="Its key (PEM).")
@click.option("--native", metavar="HOST:PORT", help="Where the native SDK connects [127.0.0.1:9876].")
@click.option("--flush", metavar="sync|async", help="Acknowledge after the disk has it (sync, the default) or before.")
def serve(
    config_file: Path | None,
    data_dir: Path | None,
    kafka: str | None,
    kafka_advertised: str | None,
    mqtt: str | None,
    mqtts: str | None,
    mqtt_ws: str | None,
    mqtt_wss: str | None,
    mqtt_certificate: Path | None,
    mqtt_key: Path | None,
    native: str | None,
    flush: str | None,
) -> None:
    """Run the broker until SIGTERM or Ctrl-C.

    Every setting can be given in the file ([section] key), in the environment (TRIVIUM_SECTION_KEY) or, for those
    listed here, as a flag; the later wins. Standard output gets one line for each listener that is ready; logs go to
    standard error.
    """
    from structlog import get_logger

    from conf.load import ConfigError, load
    from gateway import log

    flags = {
        ("store", "data_dir"): ("--data-dir", data_dir),
        ("store", "flush"): ("--flush", flush),
        ("kafka", "listen"): ("--kafka", kafka),
        ("kafka", "advertised"): ("--kafka-advertised", kafka_advertised),
        ("mqtt", "listen"): ("--mqtt", mqtt),
        ("mqtt", "listen_tls"): ("--mqtts", mqtts),
        ("mqtt", "listen_ws"): ("--mqtt-ws", mqtt_ws),
        ("mqtt", "listen_wss"): ("--mqtt-wss", mqtt_wss),
        ("mqtt", "tls_certificate"): ("--mqtt-certificate", mqtt_certificate),
        ("mqtt", "tls_key"): ("--mqtt-key", mqtt_key),
        ("native", "listen"): ("--native", native),
    }
    try:
        config = load(config_file, os.environ, {key: given for key, given in flags.items() if given[1] is not None})
    except ConfigError as error:
        for line in str(error).splitlines():
            click.echo(f"trivium: {line}", err=True)
        raise SystemExit(EXIT_CONFIG) from None
    log.configure(config.log.level, config.log.format)

    compiled = use_compiled()
    from gateway.serve import run

    say = get_logger(__name__)
    say.info("starting", compiled=compiled)
    if not compiled and is_outdated():
        say.warning("sources have changed since they were compiled, and run as they are", mend="trivium compile")
    raise SystemExit(run(config))


@main.command("compile")
def compile_hot_modules() -> None:
    """Compile what every MQTT message goes through; needs a C compiler, Python's headers and a minute.

    Prints the folder in which `trivium serve` finds it. Setting up a checkout does this.
    """
    try:
        click.echo(compile_modules())
    except CompileError as error:
        click.echo(f"trivium: not compiled, the sources will run as they are: {error}", err=True)
        raise SystemExit(1) from None


@main.group()
def store() -> None:
    """Look into a data directory while no broker uses it."""


@store.command("verify")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify_store(directory: Path) -> None:
    """Read everything in DIRECTORY and name what is not as it was written; exit code 1 if there is any.

    Progress goes to standard error.
    """
    from core.store.disk import RealDisk
    from core.store.verify import verify

    with _locked(directory):
        last = -1

        def show(done: int, total: int) -> None:
            nonlocal last
            percent = 100 if total == 0 else done * 100 // total
            if percent != last:
                last = percent
                click.echo(f"\rverified {percent}% of {total} bytes", err=True, nl=percent == 100)

        report = verify(RealDisk(directory), show)
    for note in report.notes:
        click.echo(f"note: {note}")
    for damage in report.damage:
        click.echo(f"damage: {damage}")
    click.echo(
        f"{report.files} files, {report.bytes} bytes, {report.groups} groups, {report.batches} batches, "
        f"{len(report.damage)} damaged"
    )
    raise SystemExit(1 if report.damage else 0)


@store.command("dump")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--partition", type=int, help="Only this partition, by its number in the store.")
@click.option("--records", is_flag=True, help="Print records too, keys and values cut short.")
def dump_store(directory: Path, partition: int | None, records: bool) -> None:
    """Print what DIRECTORY holds, a line for each group and batch."""
    from core.store.disk import RealDisk
    from core.store.verify import dump

    with _locked(directory):
        for line in dump(RealDisk(directory), partition, records=records):
            click.echo(line)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the store's lock, where there is one: a running broker changes what is being read."""
    from core.store.disk import RealDisk
    from core.store.embedded import LOCK_NAME

    if not (directory / LOCK_NAME).exists():
        yield
        return
    try:
        lock = RealDisk(directory).lock(LOCK_NAME)
    except BlockingIOError:
        click.echo(f"trivium: {directory} is in use by a running broker", err=True)
        raise SystemExit(EXIT_IN_USE) from None
    try:
        yield
    finally:
        lock.release()
