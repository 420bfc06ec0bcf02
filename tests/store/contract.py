"""The contract of a store engine: every rule of `core.store.engine`, for any engine.

A test module makes a fixture `engine` (running) and inherits `EngineContract`; `restart` is for engines that keep data.
"""

from __future__ import annotations

import pytest
import trio

from core.store.engine import (
    Append,
    Appended,
    CreatePartition,
    DeleteBefore,
    DeletePartition,
    DurableBatch,
    Engine,
    OffsetOutOfRange,
    Outcome,
    UnknownPartition,
    append,
)
from tests.store.batches import batch, batches_in, entry, read_all
from trivium.record_batch import parse_header
from trivium.records import build_control


async def created(engine: Engine, *partitions: int) -> None:
    answers = await append(engine, [CreatePartition(p) for p in partitions])
    assert {a.outcome for a in answers} == {Outcome.APPENDED}


async def put(engine: Engine, partition: int, data: bytes) -> Appended:
    return (await append(engine, [entry(partition, data)]))[0]


def marker(partition: int, producer: tuple[int, int], *, commit: bool) -> Append:
    return entry(partition, build_control(*producer, commit, 0, 1_000))


class EngineContract:
    # Appending

    async def test_offsets_are_given_in_append_order_without_holes(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        seen: list[tuple[int, Appended]] = []
        all_answered = trio.Event()
        sizes = [1, 3, 2, 1, 5, 1, 1, 4] * 5
        for i, size in enumerate(sizes):

            def done(answers: list[Appended], i: int = i) -> None:
                seen.append((i, answers[0]))
                if len(seen) == len(sizes):
                    all_answered.set()

            engine.append([entry(1 + i % 2, batch(*[b"x"] * size))], done)
            assert not any(j == i for j, _ in seen), "answered inside append"
            if i % 7 == 6:
                engine.write_now()
        await all_answered.wait()
        assert [i for i, _ in seen] == list(range(len(sizes)))
        expected = {1: 0, 2: 0}
        for i, answer in seen:
            assert answer.outcome is Outcome.APPENDED
            assert answer.base_offset == expected[1 + i % 2]
            expected[1 + i % 2] += sizes[i]
        positions = [a.position for _, a in seen]
        assert positions == sorted(set(positions))
        assert engine.info(1).high_watermark == engine.info(1).next_offset == expected[1]

    async def test_what_was_appended_is_read_back_with_its_offset_and_epoch(self, engine: Engine) -> None:
        await created(engine, 1)
        sent = [batch(b"a", b"b"), batch(b"c" * 5000), batch(b"d", key=b"k")]
        for data in sent:
            await put(engine, 1, data)
        got = await read_all(engine, 1)
        assert [b[16:] for b in got] == [b[16:] for b in sent]
        assert [parse_header(b).base_offset for b in got] == [0, 2, 3]
        assert {parse_header(b).leader_epoch for b in got} == {engine.epoch}

    async def test_the_caller_may_use_its_buffer_again_after_done(self, engine: Engine) -> None:
        await created(engine, 1)
        data = batch(b"first")
        buffer = bytearray(data)
        await append(engine, [Append(1, parse_header(data), memoryview(buffer))])
        buffer[:] = bytes(len(buffer))
        assert (await read_all(engine, 1))[0][16:] == data[16:]

    async def test_one_refused_entry_refuses_the_whole_append(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        answers = await append(
            engine,
            [
                entry(1, batch(b"a")),
                entry(1, batch(b"p", producer=(7, 0), sequence=0)),
                entry(2, batch(b"b"), if_next_offset=9),
                entry(3, batch(b"c")),
                DeleteBefore(1, 0),
                CreatePartition(4),
                DeletePartition(2),
            ],
        )
        assert [a.outcome for a in answers] == [
            Outcome.NOT_APPENDED,
            Outcome.NOT_APPENDED,
            Outcome.OFFSET_MISMATCH,
            Outcome.UNKNOWN_PARTITION,
            Outcome.NOT_APPENDED,
            Outcome.NOT_APPENDED,
            Outcome.NOT_APPENDED,
        ]
        assert engine.info(1).next_offset == engine.info(2).next_offset == 0
        assert engine.partitions() == [1, 2]
        assert engine.producers(1) == []
        again = await put(engine, 1, batch(b"p", producer=(7, 0), sequence=0))
        assert (again.outcome, again.base_offset) == (Outcome.APPENDED, 0)
        assert (await append(engine, [CreatePartition(4)]))[0].outcome is Outcome.APPENDED

    async def test_an_append_spans_partitions_and_may_use_one_it_creates(self, engine: Engine) -> None:
        answers = await append(
            engine, [CreatePartition(5), entry(5, batch(b"a", b"b")), entry(5, batch(b"c")), CreatePartition(6)]
        )
        assert [a.outcome for a in answers] == [Outcome.APPENDED] * 4
        assert [a.base_offset for a in answers[1:3]] == [0, 2]
        assert engine.info(5).high_watermark == 3
        assert engine.info(6).high_watermark == 0

    async def test_condition_on_the_next_offset(self, engine: Engine) -> None:
        await created(engine, 1)
        first = await append(engine, [entry(1, batch(b"a"), if_next_offset=0)])
        second = await append(engine, [entry(1, batch(b"a"), if_next_offset=0)])
        third = await append(engine, [entry(1, batch(b"a"), if_next_offset=1)])
        outcomes = [a[0].outcome for a in (first, second, third)]
        assert outcomes == [Outcome.APPENDED, Outcome.OFFSET_MISMATCH, Outcome.APPENDED]

    async def test_given_offsets_leave_gaps_and_never_go_back(self, engine: Engine) -> None:
        await created(engine, 1)
        for base_offset in (10, 20):
            [answer] = await append(engine, [entry(1, batch(b"a", b"b"), keep_offsets=True, base_offset=base_offset)])
            assert (answer.outcome, answer.base_offset) == (Outcome.APPENDED, base_offset)
        [back] = await append(engine, [entry(1, batch(b"a"), keep_offsets=True, base_offset=21)])
        assert back.outcome is Outcome.OFFSET_MISMATCH
        assert engine.info(1).high_watermark == 22
        read = engine.read_nowait(1, 12, 1 << 20)
        assert read is not None
        assert [parse_header(b).base_offset for b in batches_in(read)] == [20]
        assert [parse_header(b).base_offset for b in await read_all(engine, 1)] == [10, 20]

    async def test_nothing_of_an_append_is_seen_before_its_answer(self, engine: Engine) -> None:
        await created(engine, 1)
        answered = trio.Event()
        engine.append([entry(1, batch(b"a"))], lambda answers: answered.set())
        assert engine.info(1).high_watermark == 0
        read = engine.read_nowait(1, 0, 1 << 20)
        assert read is not None
        assert read.buffers == []
        with pytest.raises(OffsetOutOfRange):
            engine.read_nowait(1, 1, 1 << 20)
        await answered.wait()
        assert engine.info(1).high_watermark == 1

    async def test_done_listener_and_watcher_come_in_their_order(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        events: list[object] = []
        durable: list[DurableBatch] = []
        watched = trio.Event()

        def listener(batches: list[DurableBatch]) -> None:
            events.append("tail")
            durable.extend(batches)

        def watcher(partition: int) -> None:
            events.append(("moved", partition, engine.info(partition).high_watermark))
            watched.set()

        engine.add_tail_listener(listener)
        engine.watch(1, watcher)
        engine.append([entry(1, batch(b"a", b"b")), entry(2, batch(b"c"))], lambda answers: events.append("done"))
        await watched.wait()
        assert events == ["tail", "done", ("moved", 1, 2)]
        assert [(d.partition, d.base_offset, d.header.count) for d in durable] == [(1, 0, 2), (2, 0, 1)]
        assert durable[0].position < durable[1].position < engine.position
        engine.unwatch(1, watcher)
        await put(engine, 1, batch(b"d"))
        assert events[-1] == "done" or events[-1] == "tail"

    # Reading

    async def test_reads_stop_at_the_byte_limit_but_never_inside_a_batch(self, engine: Engine) -> None:
        await created(engine, 1)
        data = batch(b"x" * 100)
        for _ in range(10):
            await put(engine, 1, data)
        size = len(data)
        for limit, count in ((0, 1), (1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (100 * size, 10)):
            read = await engine.read(1, 0, limit)
            assert len(list(batches_in(read))) == count
        assert (await engine.read(1, 0, size - 1, first_whole=False)).buffers == []
        assert (await engine.read(1, 0, size, first_whole=False)).size_bytes == size

    async def test_an_offset_inside_a_batch_gets_the_whole_batch(self, engine: Engine) -> None:
        await created(engine, 1)
        await put(engine, 1, batch(b"a", b"b", b"c"))
        await put(engine, 1, batch(b"d"))
        for offset, first in ((0, 0), (1, 0), (2, 0), (3, 3)):
            read = await engine.read(1, offset, 1)
            assert parse_header(read.buffers[0]).base_offset == first
        assert (await engine.read(1, 4, 1)).buffers == []
        for offset in (-1, 5):
            with pytest.raises(OffsetOutOfRange):
                await engine.read(1, offset, 1)

    async def test_unknown_partitions_say_so(self, engine: Engine) -> None:
        with pytest.raises(UnknownPartition):
            engine.info(1)
        with pytest.raises(UnknownPartition):
            engine.read_nowait(1, 0, 1)
        with pytest.raises(UnknownPartition):
            await engine.read(1, 0, 1)
        with pytest.raises(UnknownPartition):
            await engine.offset_for_time(1, 0)
        assert (await put(engine, 1, batch())).outcome is Outcome.UNKNOWN_PARTITION
        assert (await append(engine, [DeletePartition(1)]))[0].outcome is Outcome.UNKNOWN_PARTITION

    # Log start and deletion

    async def test_delete_before_raises_the_log_start_and_never_lowers_it(self, engine: Engine) -> None:
        await created(engine, 1)
        for _ in range(5):
            await put(engine, 1, batch(b"a", b"b"))
        [answer] = await append(engine, [DeleteBefore(1, 5)])
        assert (answer.outcome, answer.log_start) == (Outcome.APPENDED, 5)
        [answer] = await append(engine, [DeleteBefore(1, 3)])
        assert (answer.outcome, answer.log_start) == (Outcome.APPENDED, 5)
        assert (await append(engine, [DeleteBefore(1, 11)]))[0].outcome is Outcome.OFFSET_MISMATCH
        assert engine.info(1).log_start == 5
        with pytest.raises(OffsetOutOfRange):
            engine.read_nowait(1, 4, 1)
        assert [parse_header(b).base_offset for b in await read_all(engine, 1)] == [4, 6, 8]
        await append(engine, [DeleteBefore(1, 10)])
        assert engine.info(1)[:4] == (10, 10, 10, 10)
        assert (await put(engine, 1, batch())).base_offset == 10

    async def test_a_deleted_partition_is_gone_and_its_number_too(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        await put(engine, 1, batch())
        gone: list[int] = []
        engine.watch(1, gone.append)
        assert (await append(engine, [DeletePartition(1)]))[0].outcome is Outcome.APPENDED
        assert gone == [1]
        assert engine.partitions() == [2]
        with pytest.raises(UnknownPartition):
            engine.info(1)
        assert (await append(engine, [CreatePartition(1)]))[0].outcome is Outcome.UNKNOWN_PARTITION
        assert (await append(engine, [CreatePartition(2)]))[0].outcome is Outcome.UNKNOWN_PARTITION

    # Producers

    async def test_duplicates_are_answered_with_where_they_are(self, engine: Engine) -> None:
        await created(engine, 1)
        data = [batch(b"a", b"b", producer=(7, 0), sequence=2 * i) for i in range(4)]
        answers: list[Appended] = []
        all_answered = trio.Event()

        def done(more: list[Appended]) -> None:
            answers.extend(more)
            if len(answers) == 8:
                all_answered.set()

        for sent in (*data, *data):  # the second four meet the first four on their way
            engine.append([entry(1, sent)], done)
        await all_answered.wait()
        assert [a.outcome for a in answers] == [Outcome.APPENDED] * 4 + [Outcome.DUPLICATE] * 4
        assert [a.base_offset for a in answers] == [0, 2, 4, 6] * 2
        assert engine.info(1).high_watermark == 8

    async def test_what_goes_with_a_duplicate_is_not_stored_again(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        sent = entry(1, batch(b"a", producer=(7, 0), sequence=0))
        beside = entry(2, batch(b"b"))._replace(unless_duplicate=True)
        first = await append(engine, [sent, beside])
        again = await append(engine, [sent, beside, entry(2, batch(b"c"))])
        assert [a.outcome for a in first] == [Outcome.APPENDED] * 2
        assert [a.outcome for a in again] == [Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.APPENDED]
        assert again[0].base_offset == 0
        assert engine.info(2).high_watermark == 2
        gone = await append(engine, [sent, beside._replace(partition=9)])
        assert [a.outcome for a in gone] == [Outcome.NOT_APPENDED, Outcome.UNKNOWN_PARTITION]

    async def test_sequences_and_producer_epochs_are_checked(self, engine: Engine) -> None:
        await created(engine, 1)
        assert (await put(engine, 1, batch(producer=(7, 3), sequence=0))).outcome is Outcome.APPENDED
        assert (await put(engine, 1, batch(producer=(7, 3), sequence=5))).outcome is Outcome.OUT_OF_ORDER_SEQUENCE
        assert (await put(engine, 1, batch(producer=(7, 2), sequence=1))).outcome is Outcome.PRODUCER_FENCED
        assert (await put(engine, 1, batch(producer=(7, 4), sequence=0))).outcome is Outcome.APPENDED
        assert (await put(engine, 1, batch(producer=(7, 3), sequence=1))).outcome is Outcome.PRODUCER_FENCED
        [state] = engine.producers(1)
        assert (state.producer_id, state.producer_epoch, state.last_sequence) == (7, 4, 0)

    async def test_committed_reads_stop_at_the_last_stable_offset(self, engine: Engine) -> None:
        await created(engine, 1)
        await put(engine, 1, batch(b"plain"))
        await put(engine, 1, batch(b"open", producer=(7, 0), sequence=0, transactional=True))
        await put(engine, 1, batch(b"plain"))
        info = engine.info(1)
        assert (info.high_watermark, info.last_stable) == (3, 1)
        assert len(list(batches_in(await engine.read(1, 0, 1 << 20, committed=True)))) == 1
        assert len(list(batches_in(await engine.read(1, 0, 1 << 20)))) == 3
        assert (await engine.read(1, 2, 1 << 20, committed=True)).buffers == []
        moved: list[int] = []
        engine.watch(1, moved.append)
        await append(engine, [marker(1, (7, 0), commit=False)])
        assert moved == [1]
        assert engine.info(1).last_stable == 4
        read = await engine.read(1, 0, 1 << 20, committed=True)
        assert len(list(batches_in(read))) == 4
        assert read.aborted == [(7, 1, 3)]
        assert (await engine.read(1, 0, 1 << 20)).aborted == []
        await put(engine, 1, batch(b"again", producer=(7, 0), sequence=1, transactional=True))
        await append(engine, [marker(1, (7, 0), commit=True)])
        assert engine.info(1).last_stable == 6
        assert (await engine.read(1, 4, 1 << 20, committed=True)).aborted == []

    # Positions, times, epochs

    async def test_positions_and_offsets_find_each_other(self, engine: Engine) -> None:
        await created(engine, 1, 2)
        answers = [await put(engine, 1 + i % 2, batch(b"a", b"b")) for i in range(8)]
        for i, answer in enumerate(answers):
            partition = 1 + i % 2
            assert engine.position_at(partition, answer.base_offset) == answer.position
            assert engine.position_at(partition, answer.base_offset + 1) == answer.position
            assert await engine.offset_at(partition, answer.position) == answer.base_offset
        assert await engine.offset_at(1, answers[1].position) == answers[2].base_offset
        assert await engine.offset_at(1, engine.position) == engine.info(1).high_watermark
        assert await engine.offset_at(1, 0) == 0
        assert engine.position_at(1, engine.info(1).high_watermark) == engine.position

    async def test_times_find_the_first_record_that_is_late_enough(self, engine: Engine) -> None:
        await created(engine, 1)
        assert await engine.offset_for_time(1, 0) is None
        assert await engine.max_timestamp(1) is None
        for start in (1_000, 5_000, 3_000, 9_000):
            await put(engine, 1, batch(b"a", b"b", b"c", timestamp_ms=start))
        for asked, offset, found in ((0, 0, 1_000), (1_001, 1, 1_001), (1_003, 3, 5_000), (5_003, 9, 9_000)):
            answer = await engine.offset_for_time(1, asked)
            assert answer is not None
            assert answer == (offset, found, engine.epoch)
        assert await engine.offset_for_time(1, 9_003) is None
        assert await engine.max_timestamp(1) == (11, 9_002, engine.epoch)
        assert engine.info(1).max_timestamp_ms == 9_002
        await append(engine, [DeleteBefore(1, 4)])
        answer = await engine.offset_for_time(1, 0)
        assert answer is not None
        assert answer.offset == 4

    async def test_epochs_have_their_ends(self, engine: Engine) -> None:
        await created(engine, 1)
        assert engine.epoch_end(1, engine.epoch) == (-1, -1)
        await put(engine, 1, batch(b"a", b"b"))
        assert engine.epoch_end(1, engine.epoch) == (engine.epoch, 2)
        assert engine.epoch_end(1, engine.epoch + 1) == (engine.epoch, 2)
        assert engine.epoch_end(1, engine.epoch - 1) == (-1, -1)
        assert engine.epoch_of(1, 1) == engine.epoch
        assert engine.epoch_of(1, 2) == -1

    async def test_sizes_count_what_is_kept(self, engine: Engine) -> None:
        await created(engine, 1)
        data = batch(b"x" * 100)
        for _ in range(4):
            await put(engine, 1, data)
        assert engine.info(1).size_bytes == 4 * len(data)

    async def test_keys_are_found(self, engine: Engine) -> None:
        await created(engine, 1)
        for i in range(6):
            await put(engine, 1, batch(b"a", b"b", key=b"even" if i % 2 == 0 else b"odd"))
        assert await engine.offsets_for_key(1, b"odd", from_offset=3, count_max=3) == [3, 6, 7]
