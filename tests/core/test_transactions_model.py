"""Seeded chance against the coordinator: old and new producers, time-outs, take-overs, and crashes after any append.

What must hold: a transaction whose commit was answered is seen whole, one whose abort was answered not at all, one
whose end was cut off by a crash is whole or not there, over all its partitions and its offset; and nothing stays open.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from core.errors import CoreError
from core.store.engine import Entry, append
from core.transaction_types import InitResult, Producer
from tests.core.transactions_driver import DATA, TIMEOUT_MS, Coordinator, coordinator

NAMES = ("old", "new", "both")
STEPS = 60
LIVES = 5


@dataclass
class Written:
    """One transaction as its producer sees it; `fate` is None while it does not know."""

    values: list[tuple[int, bytes]] = field(default_factory=list)
    fate: bool | None = None


class Client:
    """A producer that keeps count of what it wrote. `bump`: it speaks EndTxn 5 and adds partitions by using them."""

    def __init__(self, name: str, bump: bool) -> None:
        self.name = name
        self.bump = bump
        self.producer: Producer | None = None
        self.open: Written | None = None


class Model:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clients = [Client("old", False), Client("new", True), Client("both", True), Client("both", False)]
        self.transactions: list[Written] = []
        self.count = 0

    async def step(self, life: Coordinator) -> None:
        client = self.random.choice(self.clients)
        if client.producer is None:
            self._lose(client)
            client.producer = await life.producer(client.name)
            return
        match self.random.choice(("write", "write", "write", "end", "end", "init", "time", "retry")):
            case "write":
                await self._write(life, client)
            case "end":
                await self._end(life, client)
            case "init" if self.random.random() < 0.3:
                self._lose(client)
                client.producer = await life.producer(client.name)
            case "time" if self.random.random() < 0.3:
                life.now_ms += self.random.randrange(TIMEOUT_MS)
                life.transactions.sweep(life.now_ms)
            case "retry":
                # An end from the past: whatever it is told, nothing that is open now may end by it.
                past = Producer(client.producer.id, client.producer.epoch - self.random.randint(1, 2))
                before = client.open
                await life.end(client.name, past, self.random.random() < 0.5, bump=client.bump)
                assert client.open is before

    async def _write(self, life: Coordinator, client: Client) -> None:
        assert client.producer is not None
        if client.open is None:
            client.open = Written()
            self.transactions.append(client.open)
        partition = self.random.choice(DATA)
        self.count += 1
        value = f"{client.name}-{self.count}".encode()
        if not client.bump:
            error = await life.add(client.name, client.producer, partition)
            if error is not None:
                self._refused(client, error)
                return
        refusal = await life.produce(client.name, client.producer, partition, value, implicit=client.bump)
        if refusal is None:
            client.open.values.append((partition, value))
        else:
            self._refused(client, refusal)

    async def _end(self, life: Coordinator, client: Client) -> None:
        assert client.producer is not None
        if client.open is None:
            return
        commit = self.random.random() < 0.6
        result: InitResult = await life.end(client.name, client.producer, commit, bump=client.bump)
        if result.error is None:
            client.open.fate = commit
            client.open = None
            client.producer = result.producer
        else:
            self._refused(client, result.error)

    def _refused(self, client: Client, why: object) -> None:
        """The producer is fenced, its transaction has timed out or was cut off by a restart: never committed."""
        if why is CoreError.CONCURRENT_TRANSACTIONS:
            return
        assert why in (
            CoreError.PRODUCER_FENCED,
            CoreError.UNKNOWN_TRANSACTIONAL_ID,
            CoreError.INVALID_TXN_STATE,
            CoreError.NOT_IN_TRANSACTION,
        ) or getattr(why, "name", "") in ("PRODUCER_FENCED", "OUT_OF_ORDER_SEQUENCE")
        self._lose(client)
        client.producer = None

    def _lose(self, client: Client) -> None:
        if client.open is not None:
            client.open.fate = False
            client.open = None

    async def check(self, life: Coordinator) -> None:
        for partition in DATA:
            assert life.is_stable(partition)
        seen = {partition: await life.visible(partition) for partition in DATA}
        flat = {(partition, value) for partition, values in seen.items() for value in values}
        assert sum(map(len, seen.values())) == len(flat), "a record is seen twice"
        known: set[tuple[int, bytes]] = set()
        for written in self.transactions:
            values = set(written.values)
            known |= values
            if written.fate is None:
                assert values <= flat or not values & flat, "half a transaction"
            elif written.fate:
                assert values <= flat, "a committed record is gone"
            else:
                assert not values & flat, "an aborted record is seen"
        assert flat <= known


@pytest.mark.parametrize("seed", range(40))
async def test_transactions_are_whole_or_nothing_whatever_happens(seed: int) -> None:
    model = Model(seed)
    history: list[list[Entry]] = []
    for number in range(1, LIVES + 1):
        async with coordinator(seed=seed, history=history, epoch=number) as life:
            life.sequences = {}
            for client in model.clients:
                # A client that was away starts anew: sequences of this life are not those of the last.
                client.producer = None
            for _ in range(model.random.randrange(STEPS)):
                await model.step(life)
            cut_off = model.random.choice([client for client in model.clients if client.open is not None] or [None])
            if cut_off is not None and cut_off.producer is not None:
                assert cut_off.open is not None
                answers: list[InitResult] = []
                life.transactions.end(cut_off.name, cut_off.producer, True, cut_off.bump, answers.append)
                cut_off.open = None  # the crash comes before the answer: its fate is not known
            kept = model.random.randint(life.engine.answered, len(life.engine.appends))
            history = list(life.engine.appends[:kept])
            for client in model.clients:
                model._lose(client)
    async with coordinator(seed=seed, history=history, epoch=LIVES + 1) as life:
        life.now_ms += TIMEOUT_MS
        life.transactions.sweep(life.now_ms)
        await append(life.engine, [])
        await model.check(life)


@pytest.mark.parametrize("seed", range(10))
async def test_an_end_is_atomic_with_its_offset_at_every_append(seed: int) -> None:
    """Every prefix of one run's appends is a crash: data and offset agree in each."""
    rng = random.Random(seed)
    async with coordinator(seed=seed) as life:
        producer = await life.producer("x")
        for number in range(1, 5):
            for partition in rng.sample(DATA, rng.randint(1, 3)):
                assert await life.produce("x", producer, partition, b"%d" % number) is None
            assert await life.send_offset("x", producer, number) is None
            error, producer = await life.end("x", producer, rng.random() < 0.7)
            assert error is None
        appends = list(life.engine.appends)
    before = -1
    for kept in range(1, len(appends) + 1):
        async with coordinator(history=appends[:kept], epoch=2) as life:
            life.now_ms += TIMEOUT_MS
            life.transactions.sweep(life.now_ms)
            await append(life.engine, [])
            numbers = {int(value) for partition in DATA for value in await life.visible(partition)}
            assert max(numbers, default=-1) == life.committed_offset()
            assert life.committed_offset() >= before
            before = life.committed_offset()
            assert all(life.is_stable(partition) for partition in DATA)
