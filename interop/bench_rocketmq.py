"""Apache RocketMQ 5.5 with its own Java benchmark, 1 KB messages, one message a call: the peer of `bench_sdk`.

    python -m interop.bench_rocketmq [--flush sync|async] [--seconds N]

64 senders, then what they have stored read by one group of the benchmark's Consumer (each message acknowledged), then
one sender. What stands beside the backlog here is `bench_queues`.

Needs java and mvn: the jars are fetched once, from `interop/peers/rocketmq/pom.xml`. The benchmark tells its rate every
ten seconds; the best line counts, since the first holds the JVM's warming up.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import click

from interop.brokers import free_port
from interop.places import CACHE, PEERS, scratch_root

JARS = CACHE / "jars" / "rocketmq" / "libs"
OPENS = [
    *(
        f"--add-exports=java.base/{name}=ALL-UNNAMED"
        for name in ("jdk.internal.ref", "sun.nio.ch", "sun.security.x509")
    ),
    *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.nio", "java.lang", "jdk.internal.misc")),
]
READY_S = 40
_TPS = re.compile(r"Send TPS: (\d+).*?Average RT\(ms\): *([\d.]+)")
_READ = re.compile(r"TPS: (\d+)")


def java(folder: Path, memory: str, *arguments: str) -> list[str]:
    return [
        "java",
        f"-Xmx{memory}",
        *OPENS,
        f"-Drocketmq.home.dir={folder}",
        f"-Duser.home={folder}",
        "-cp",
        f"{JARS}/*",
        *arguments,
    ]


def fetch() -> None:
    """The jars, once."""
    if not JARS.is_dir():
        JARS.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PEERS / "rocketmq" / "pom.xml", JARS.parent)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
        subprocess.run(command, cwd=JARS.parent, check=True)


def run(command: list[str], seconds: float) -> str:
    """What a program prints in so many seconds."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
        return child.communicate()[0]


def benchmark(folder: Path, names: str, senders: int, seconds: float) -> str:
    """The benchmark's best line: messages a second, and the mean of a call in ms."""
    program = "org.apache.rocketmq.example.benchmark.Producer"
    command = java(folder, "512m", program, "-n", names, "-t", "bt", "-s", "1024", "-w", str(senders))
    said = run(command, seconds)
    found = [(int(tps), float(mean)) for tps, mean in _TPS.findall(said)]
    if not found:
        return f"no figure: {said[-300:]}"
    tps, mean_ms = max(found)
    return f"{tps:,} msg/s, {1e3 * senders / tps:.3f} ms a message (its own mean: {mean_ms} ms)"


def backlog(folder: Path, names: str, seconds: float) -> str:
    """What a group reads of the backlog: the best of the benchmark's lines, of ten seconds each."""
    program = "org.apache.rocketmq.example.benchmark.Consumer"
    said = run(java(folder, "512m", program, "-n", names, "-t", "bt", "-g", "readers", "-p", "false"), seconds)
    found = [int(tps) for tps in _READ.findall(said)]
    return f"{max(found):,} msg/s read" if found else f"no figure: {said[-300:]}"


@click.command(help=__doc__)
@click.option("--flush", type=click.Choice(["sync", "async"]), default="async")
@click.option("--seconds", default=25.0)
def main(flush: str, seconds: float) -> None:
    fetch()
    folder = scratch_root() / "bench-rocketmq"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names_port, broker_port = free_port(), free_port()
    names = f"127.0.0.1:{names_port}"
    (folder / "namesrv.conf").write_text(f"listenPort={names_port}\n")
    settings = (PEERS / "rocketmq" / "broker.conf").read_text().replace("127.0.0.1:19876", names)
    settings = settings.replace("listenPort=10911", f"listenPort={broker_port}")
    (folder / "broker.conf").write_text(settings + f"\nflushDiskType={flush.upper()}_FLUSH\n")
    log = (folder / "log").open("wb")
    children: list[subprocess.Popen[bytes]] = []
    try:
        for memory, program, conf in (
            ("256m", "org.apache.rocketmq.namesrv.NamesrvStartup", "namesrv.conf"),
            ("1g", "org.apache.rocketmq.broker.BrokerStartup", "broker.conf"),
        ):
            command = java(folder, memory, program, "-c", str(folder / conf))
            children.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
        tool = "org.apache.rocketmq.tools.command.MQAdminStartup"
        make = java(
            folder, "256m", tool, "updateTopic", "-n", names, "-c", "DefaultCluster", "-t", "bt", "-r", "8", "-w", "8"
        )
        deadline = time.monotonic() + READY_S
        while b"success" not in subprocess.run(make, capture_output=True, check=False).stdout:
            if time.monotonic() > deadline:
                raise click.ClickException(f"no broker in {READY_S} s; see {folder / 'log'}")
        click.echo(f"{flush:6} rocketmq, 64 senders: {benchmark(folder, names, 64, seconds)}")
        click.echo(f"{flush:6} rocketmq, backlog: {backlog(folder, names, seconds)}")
        click.echo(f"{flush:6} rocketmq, 1 sender: {benchmark(folder, names, 1, seconds)}")
    finally:
        for child in children:
            child.kill()
            child.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
