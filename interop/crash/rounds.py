"""What every crash run does: load, kill -9, restart, settle, check, again and again; and what is said of it at the end.

A run is seeded. The first round that violates anything is the last; the data directory is kept then.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from interop.brokers import Broker, BrokerError
from interop.crash.ledger import Ledger
from interop.crash.load import Worker, WorkerError
from interop.places import scratch_root

KILLED_AGAIN_SHARE = 0.2  # of restarts


class Run(ABC):
    """One broker, its workers and the ledger over many rounds; a generation of rounds has topics of its own."""

    generation_rounds: int

    def __init__(self, broker: Broker, seed: int) -> None:
        self.broker = broker
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.kills = 0
        self.workers: Sequence[Worker] = ()

    @abstractmethod
    def new_generation(self) -> None:
        """New topics in the place of the old ones; only while all workers rest."""

    @abstractmethod
    def round(self) -> None:
        """Load, kill, restart, settle, check. Raises BrokerError or WorkerError where it cannot go on."""

    @abstractmethod
    def finish(self) -> None:
        """Checks what can be only after the last round."""

    @abstractmethod
    def counts(self) -> str:
        """What was done so far."""

    def end(self) -> None:
        for worker in self.workers:
            worker.ending = True

    def pause(self) -> None:
        for worker in self.workers:
            worker.ask_pause()
        for worker in self.workers:
            worker.wait_paused()

    def kill_and_restart(self, recovering_s_max: float) -> None:
        """Now and then it is killed again while it recovers, after so long at most."""
        self.broker.check()
        self._kill()
        if self.random.random() < KILLED_AGAIN_SHARE:
            self.broker.start_unready()
            time.sleep(self.random.uniform(0.0, recovering_s_max))
            self._kill()
        self.broker.start()

    def _kill(self) -> None:
        self.kills += 1
        self.broker.kill()


def _crash(broker: Broker, new_run: Callable[[Broker, int], Run], rounds: int, seed: int) -> list[str]:
    """Runs `rounds` rounds and returns what was violated."""
    began = time.monotonic()
    broker.start()
    run = new_run(broker, seed)
    try:
        for number in range(rounds):
            if number % run.generation_rounds == 0:
                run.new_generation()
            run.round()
            print(f"round {number + 1}: {run.kills} kills, ready in {broker.ready_s:.2f} s, {run.counts()}", end="")
            print(f", {time.monotonic() - began:.0f} s", flush=True)
            if run.ledger.violations:
                break
        else:
            run.finish()
    except (BrokerError, WorkerError, KafkaException, TimeoutError) as error:
        run.ledger.violate(f"{type(error).__name__}: {error}")
    finally:
        run.end()
    return run.ledger.violations


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """Those that every crash run has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--flush", choices=("sync", "async"), default="sync")
    return parser


def crash(
    options: argparse.Namespace,
    new_broker: Callable[[Path], Broker],
    new_run: Callable[[Broker, int], Run],
    good: str,
) -> int:
    """The exit code of a run with these options; `good` is what is said when nothing was violated."""
    seed = options.seed if options.seed is not None else random.randrange(1 << 31)
    print(f"seed {seed}")
    scratch_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=scratch_root()))
    broker = new_broker(directory)
    violations = _crash(broker, new_run, options.rounds, seed)
    broker.kill()
    for violation in violations:
        print(f"VIOLATED {violation}")
    if violations:
        print(f"seed {seed}; the data directory is kept: {directory}")
        print(broker.log_tail())
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print(f"{options.rounds} rounds: {good}")
    return 0
