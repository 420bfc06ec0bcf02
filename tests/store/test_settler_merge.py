"""Merging files: every batch comes out once, at its offset and position, sorted, checked, and durable."""

from __future__ import annotations

import random

import pytest
import trio

import core.store.merge as merging
from core.store.compaction import Cleaner, CleanState, KeyCollector, OffsetMap
from core.store.disk import Disk
from core.store.embedded import EmbeddedEngine
from core.store.index import read_footer
from core.store.log_files import log_name
from core.store.manifest import NAME, BadManifest, Manifest, decode, encode, read, settled_name, write
from core.store.merge import Damaged, Merged, Source, merge
from core.store.segment import FileKind, Window, decode_file_header, scan_groups
from tests.store.batches import batch
from tests.store.files import Placed, batches_of, write_log
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import check_crc, parse_header


def no_pace(size: int) -> None:
    pass


def random_batches(rng: random.Random, count: int, next_offsets: dict[int, int]) -> list[Placed]:
    made = []
    for _ in range(count):
        partition = rng.choice(list(next_offsets))
        records = rng.randint(1, 4)
        made.append((partition, next_offsets[partition], batch(*[rng.randbytes(rng.randint(0, 300))] * records)))
        next_offsets[partition] += records
    return made


def sources(disk: Disk, *names: str) -> list[Source]:
    return [Source(file := disk.open(name), read_footer(file).rows) for name in names]


def run(disk: Disk, names: list[str], log_starts: dict[int, int], first: int = 1) -> Merged:
    return merge(disk, sources(disk, *names), log_starts, {}, first, 1, no_pace)


def test_every_batch_comes_out_once_sorted_and_durable() -> None:
    rng = random.Random(1)
    disk = SimulatedDisk()
    next_offsets = dict.fromkeys([3, 1, 70_000], 0)
    first = random_batches(rng, 60, next_offsets)
    second = random_batches(rng, 61, next_offsets)
    write_log(disk, 1, 100, first)
    write_log(disk, 2, 160, second)
    merged = run(disk, [log_name(1), log_name(2)], dict.fromkeys(next_offsets, 0))
    assert [o.number for o in merged.outputs] == [1]
    after = disk.cut(seed=1)  # nothing may hang on what was not synced
    name = settled_name(1)
    for partition in next_offsets:
        expected = [(offset, 100 + i, b) for i, (p, offset, b) in enumerate(first + second) if p == partition]
        found = batches_of(after, name, partition)
        assert [f[:2] for f in found] == [e[:2] for e in expected]
        assert [f[2][17:] for f in found] == [e[2][17:] for e in expected]
        assert all(parse_header(f[2]).base_offset == f[0] and check_crc(f[2], parse_header(f[2])) for f in found)
    file = after.open(name)
    header = decode_file_header(file.pread(64, 0))
    assert header.kind is FileKind.SETTLED
    groups = list(scan_groups(Window(file, read_footer(file).groups_end), header.salt))
    order = [(e.partition, e.base_offset) for g in groups for e in g.entries]
    assert order == sorted(order)
    assert len(order) == 121
    assert [g.sequence for g in groups] == list(range(len(groups)))
    again = run(disk, [name], dict.fromkeys(next_offsets, 0), first=2)
    assert [r[3:9] for r in again.outputs[0].footer.rows] == [r[3:9] for r in merged.outputs[0].footer.rows]


def test_what_is_deleted_stays_behind() -> None:
    disk = SimulatedDisk()
    write_log(disk, 1, 0, [(1, 0, batch(b"a", b"b")), (2, 0, batch(b"c")), (1, 2, batch(b"d")), (3, 0, batch(b"e"))])
    merged = run(disk, [log_name(1)], {1: 2, 3: 0})
    assert [(r.partition, r.first_offset, r.batches) for r in merged.outputs[0].footer.rows] == [(1, 2, 1), (3, 0, 1)]
    assert run(disk, [log_name(1)], {1: 1}, first=2).outputs[0].footer.rows[0].first_offset == 0
    assert run(disk, [log_name(1)], {1: 3, 3: 1}, first=3).outputs == []


def test_groups_do_not_mix_epochs() -> None:
    disk = SimulatedDisk()
    write_log(disk, 1, 0, [(1, 0, batch(b"a")), (2, 0, batch(b"b"))], epoch=1)
    write_log(disk, 2, 2, [(1, 1, batch(b"c")), (2, 1, batch(b"d"))], epoch=2)
    run(disk, [log_name(1), log_name(2)], {1: 0, 2: 0})
    file = disk.open(settled_name(1))
    salt = decode_file_header(file.pread(64, 0)).salt
    found = [(g.epoch, [e.partition for e in g.entries]) for g in scan_groups(Window(file), salt)]
    assert found == [(1, [1]), (2, [1]), (1, [2]), (2, [2])]


def test_large_partitions_get_files_of_their_own_and_files_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "OWN_FILE_BYTES", 5000)
    monkeypatch.setattr(merging, "FILE_BYTES_MAX", 8000)
    monkeypatch.setattr(merging, "_GROUP_BYTES", 500)
    disk = SimulatedDisk()
    large = [(5, i, batch(bytes(1000))) for i in range(20)]
    small: list[Placed] = [(1, 0, batch(b"x")), (4, 0, batch(b"x")), (6, 0, batch(b"x")), (7, 0, batch(b"x"))]
    write_log(disk, 1, 0, small[:2] + large + small[2:])
    merged = run(disk, [log_name(1)], dict.fromkeys(range(8), 0))
    layout = [[r.partition for r in o.footer.rows] for o in merged.outputs]
    assert layout == [[1, 4], [5], [5], [5], [6, 7]]
    ranges = [(r.first_offset, r.end_offset) for o in merged.outputs for r in o.footer.rows if r.partition == 5]
    assert [r[0] for r in ranges[1:]] == [r[1] for r in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, 20)


def test_damage_stops_the_merge_and_leaves_nothing_behind() -> None:
    disk = SimulatedDisk()
    footer = write_log(disk, 1, 0, [(1, i, batch(b"x" * 100)) for i in range(9)])
    disk.corrupt(log_name(1), footer.groups_end - 5)
    with pytest.raises(Damaged) as caught:
        run(disk, [log_name(1)], {1: 0})
    assert (caught.value.partition, caught.value.offset) == (1, 8)
    assert disk.list() == [log_name(1)]


def test_a_merge_that_is_stopped_leaves_nothing_behind() -> None:
    class Stop(Exception):
        pass

    def stop(size: int) -> None:
        if disk.list() != [log_name(1)]:
            raise Stop

    disk = SimulatedDisk()
    write_log(disk, 1, 0, [(1, i, batch(b"x" * 100)) for i in range(9)])
    with pytest.raises(Stop):
        merge(disk, sources(disk, log_name(1)), {1: 0}, {}, 1, 1, stop)
    assert disk.list() == [log_name(1)]


def test_a_partition_is_cleaned_on_the_way_and_the_others_are_not() -> None:
    disk = SimulatedDisk()
    write_log(disk, 1, 0, [(p, i, batch(b"%d" % i, key=b"k%d" % (i % 3))) for i in range(9) for p in (1, 2)])
    offsets = OffsetMap()
    collector = KeyCollector(offsets, [])
    for _, _, data in batches_of(disk, log_name(1), 1):
        assert collector.take(parse_header(data), data)
    cleaner = Cleaner(offsets, 9, [], {}, 0, 0)
    merged = merge(disk, sources(disk, log_name(1)), {1: 0, 2: 0}, {1: (cleaner, 9)}, 1, 1, no_pace)
    assert [(r.partition, r.batches) for r in merged.outputs[0].footer.rows] == [(1, 3), (2, 9)]


def test_the_manifest_comes_back_as_it_was_written_and_never_half() -> None:
    disk = SimulatedDisk()
    assert read(disk) == Manifest()
    before = Manifest(0, 5, {1, 4}, {7}, {"a": {1, 2}}, {3: CleanState(10, 20)})
    write(disk, before)
    assert read(disk) == before
    assert before.number == 1
    start = len(disk.trace)
    after = before.copy()
    after.settled.add(9)
    write(disk, after)
    assert 9 not in before.settled
    for _, cut in disk.cuts(range(start, len(disk.trace) + 1), seed=3):
        assert read(cut) in (before, after)
        write(cut, after.copy())
    assert read(disk.cut(seed=1)) == after


async def test_a_lost_manifest_is_not_taken_for_a_store_that_never_settled() -> None:
    disk = SimulatedDisk()
    async with trio.open_nursery() as nursery:
        await nursery.start(EmbeddedEngine("", disk=disk).run)
        nursery.cancel_scope.cancel()
    assert read(disk).never_settled
    again = disk.copy()
    again.unlink(NAME)  # of a store that has none yet
    async with trio.open_nursery() as nursery:
        await nursery.start(EmbeddedEngine("", disk=again).run)
        nursery.cancel_scope.cancel()
    assert read(again).never_settled
    name = settled_name(1)
    disk.open(name, create=True)
    disk.unlink(NAME)
    with pytest.raises(BadManifest, match="no MANIFEST that says which of them count"):
        await EmbeddedEngine("", disk=disk).run()
    assert name in disk.list()


def test_a_damaged_or_newer_manifest_is_refused() -> None:
    data = encode(Manifest(3, 1))
    for i in range(len(data)):
        with pytest.raises(BadManifest):
            decode(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
    newer = encode(Manifest()).replace(b'"version":1', b'"version":2').split(b"\n")[0]
    from trivium.crc import crc32c

    with pytest.raises(BadManifest, match="version 2"):
        decode(newer + b"\n%08x\n" % crc32c(newer))
