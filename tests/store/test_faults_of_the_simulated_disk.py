"""The simulated disk loses, fails, lies and fills as its header says: else the tests on it would prove nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.store.disk import Disk, RealDisk
from tests.store.simulated_disk import Faults, SimulatedDisk


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path) if request.param == "real" else SimulatedDisk()


def test_both_disks_keep_files_alike(disk: Disk) -> None:
    file = disk.open("a", create=True)
    assert file.pwritev([b"hello ", b"world"], 4) == 11
    assert (file.size(), file.pread(100, 0)) == (15, bytes(4) + b"hello world")
    into = [bytearray(3), bytearray(20)]
    assert file.preadv(into, 4) == 11
    assert bytes(into[0]) + bytes(into[1][:8]) == b"hello world"
    other = disk.open("b", create=True)
    other.pwritev([b"worldo"], 0)
    other.zero(2, 2)
    assert other.pread(6, 0) == b"wo\0\0do"
    disk.rename("b", "c")
    assert disk.list() == ["a", "c"]
    disk.unlink("a")
    assert disk.list() == ["c"]
    assert file.pread(5, 4) == b"hello", "an open file outlives its name"
    with pytest.raises(FileNotFoundError):
        disk.open("a")
    with pytest.raises(FileExistsError):
        disk.open("c", create=True)
    file.truncate(5)
    assert file.size() == 5
    file.allocate(0, 8)
    assert file.pread(9, 0) == bytes(4) + b"h" + bytes(3)
    file.fdatasync()
    disk.sync_directory()
    assert disk.free_bytes() > 0
    lock = disk.lock("lock")
    with pytest.raises(BlockingIOError):
        disk.lock("lock")
    lock.release()
    disk.lock("lock").release()


def test_more_buffers_than_one_system_call_takes_are_written(tmp_path: Path) -> None:
    file = RealDisk(tmp_path).open("a", create=True)
    assert file.pwritev([b"%04d" % i for i in range(3000)], 0) == 12_000
    assert file.pread(4, 4 * 2999) == b"2999"


def test_a_power_cut_keeps_what_was_synced_and_any_mix_of_the_rest() -> None:
    disk = SimulatedDisk(block_bytes=4)
    file = disk.open("a", create=True)
    disk.sync_directory()
    file.pwritev([b"aaaabbbbcccc"], 0)
    file.fdatasync()
    synced = len(disk.trace)
    file.pwritev([b"BBBBCCCCDDDD"], 4)
    assert {disk.cut(synced, seed=s).content("a") for s in range(20)} == {b"aaaabbbbcccc"}
    seen = {disk.cut(seed=s).content("a") for s in range(200)}
    assert {b"aaaabbbbcccc", b"aaaabbbbCCCC", b"aaaaBBBBcccc", b"aaaaBBBBCCCCDDDD", b"aaaaBBBBCCCC\0\0\0\0"} <= seen
    assert all(s.startswith(b"aaaa") for s in seen)


def test_a_power_cut_loses_names_that_were_not_synced() -> None:
    disk = SimulatedDisk()
    disk.open("a", create=True)
    disk.sync_directory()
    disk.open("b", create=True).fdatasync()
    disk.rename("b", "a")
    assert {tuple(disk.cut(seed=s).list()) for s in range(50)} == {("a",), ("a", "b")}
    by_point = [after.list() for _, after in disk.cuts([0, 1, 2], seed=1)]
    assert by_point[2] == ["a"]
    assert by_point[0] == []


def test_after_a_failed_sync_the_next_one_succeeds_and_makes_nothing_durable() -> None:
    disk = SimulatedDisk(block_bytes=1, faults=Faults(sync_fails_after=0))
    file = disk.open("a", create=True)
    disk.sync_directory()
    file.pwritev([b"x" * 64], 0)
    with pytest.raises(OSError, match="simulated"):
        file.fdatasync()
    file.fdatasync()
    left = disk.cut(seed=1).content("a")
    assert 0 < left.count(b"x") < 64


def test_a_failing_write_is_torn_and_a_full_disk_takes_what_fits() -> None:
    disk = SimulatedDisk(seed=3, faults=Faults(write_fails_after=1, capacity_bytes=100))
    file = disk.open("a", create=True)
    file.pwritev([b"x" * 40], 0)
    with pytest.raises(OSError, match="simulated"):
        file.pwritev([b"y" * 40], 40)
    assert 40 <= file.size() < 80
    disk.faults.write_fails_after = None
    with pytest.raises(OSError, match="simulated"):
        file.pwritev([b"z" * 200], 0)
    assert (file.size(), disk.free_bytes()) == (100, 0)


def test_a_lying_disk_loses_what_it_said_it_had() -> None:
    disk = SimulatedDisk()
    file = disk.open("a", create=True)
    disk.sync_directory()
    disk.faults.syncs_lie = True
    file.pwritev([b"x"], 0)
    file.fdatasync()
    assert {disk.cut(seed=s).content("a") for s in range(20)} >= {b"", b"x"}
