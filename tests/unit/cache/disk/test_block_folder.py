"""The folder of sealed blocks: bounded, shared, damaged, full, and never wrong."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.system import Environment
from backend.system.durable import Durable
from backend.upstream import BlockId, BlockPart
from cache.disk import entry_format
from cache.disk.block_folder import PARTS, BlockFolder
from tests.contents import KINDS, content, contents

LARGE = 1 << 40


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now * 10**9


class SmallDisk(Durable):
    """A disk of which `free` bytes are left, whatever is written."""

    free = LARGE

    def free_space(self, path: str) -> tuple[int, int]:
        return LARGE, self.free


def block(number: int, part: int = 0) -> BlockId:
    return BlockId(bytes([part << 4]) + number.to_bytes(31, "big"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 40_000, 65_467, 65_468, 65_469, 4 << 20])
def test_what_is_kept_is_read(tmp_path: Path, kind: str, size: int) -> None:
    data = content(kind, size)  # type: ignore[arg-type]
    BlockFolder(tmp_path, LARGE, 0).write(block(1), data)
    later = BlockFolder(tmp_path, LARGE, 0)
    assert later.read(block(1)) == data
    assert later.read(block(2)) is None


@given(contents(max_size=5000), st.integers(0, 6000), st.integers(0, 6000), st.booleans())
@settings(max_examples=60)
def test_a_part_is_the_same_from_the_whole_and_by_itself(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int, whole: bool
) -> None:
    folder = BlockFolder(tmp_path_factory.mktemp("folder"), LARGE, 0)
    part = BlockPart(data[offset : offset + length], len(data))
    if whole:
        folder.write(block(1), data)
    elif offset + len(part.data) <= len(data):
        folder.write_part(block(1), offset, length, part)
    else:
        return
    found = folder.read_part(block(1), offset, length)
    assert found is not None
    assert (bytes(found.data), found.size) == (bytes(part.data), part.size)
    assert folder.read_part(block(1), offset, length + 1) is None or whole
    assert folder.read_part(block(2), offset, length) is None


@given(contents(min_size=1, max_size=3000), st.data())
@settings(max_examples=60)
def test_a_damaged_file_is_absent_and_gone(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, source: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("folder")
    folder = BlockFolder(path, LARGE, 0)
    folder.write(block(1), data)
    (file,) = files(path)
    whole = bytearray(file.read_bytes())
    place = source.draw(st.integers(0, len(whole) - 1))
    if source.draw(st.booleans()):
        whole[place] ^= source.draw(st.integers(1, 255))
        file.write_bytes(whole)
    else:
        os.truncate(file, place)
    assert folder.read(block(1)) is None
    assert files(path) == []
    folder.write(block(1), data)
    assert folder.read(block(1)) == data


def test_a_file_under_anothers_name_is_not_that_block(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, LARGE, 0)
    folder.write(block(1), b"one")
    (file,) = files(tmp_path)
    file.rename(file.with_name(block(2).hex()))
    assert folder.read(block(2)) is None


def test_a_file_under_anothers_name_goes_and_makes_room_for_the_right_one(tmp_path: Path) -> None:
    """Regression: it stayed, and what belongs there was never kept."""
    folder, part = BlockFolder(tmp_path, LARGE, 0), BlockPart(b"part", 10)
    folder.write_part(block(1), 0, 4, part)
    folder.write_part(block(1), 2, 4, part)
    folder.write_part(block(1), 3, 4, part)
    first, second, third = files(tmp_path)
    first.rename(first.with_name(block(1).hex()))
    second.rename(second.with_name(f"{block(1).hex()}.4.4"))
    third.rename(third.with_name(f"{block(1).hex()}.3.5"))
    assert folder.read(block(1)) is None
    assert folder.read_part(block(1), 4, 4) is None
    assert folder.read_part(block(1), 3, 5) is None
    assert files(tmp_path) == []
    folder.write(block(1), b"the whole.")
    assert folder.read(block(1)) == b"the whole."


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    clock = Clock()
    folder = BlockFolder(tmp_path, PARTS * 10_000, 0, Environment(wall_clock=clock))
    for number in range(9):
        clock.now += 100
        folder.write(block(number), bytes(1000))
    clock.now += 100
    assert folder.read(block(0)) is not None
    clock.now += 100
    folder.write(block(9), bytes(1000))
    assert folder.read(block(0)) is not None, "it was used a moment ago"
    assert folder.read(block(1)) is None
    assert folder.read(block(9)) is not None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 9_000)), max_size=60))
@settings(max_examples=40)
def test_it_never_takes_more_than_its_limit(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("folder")
    limit = PARTS * 20_000
    folder = BlockFolder(path, limit, 0)
    for number, part, size in writes:
        folder.write(block(number, part), bytes(size))
        for each in path.iterdir():
            assert sum(file.stat().st_size for file in files(each)) <= limit // PARTS
    assert folder.used() == sum(file.stat().st_size for file in files(path))


def test_a_block_larger_than_a_part_is_kept_alone(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, PARTS * 1000, 0)
    folder.write(block(1), bytes(500))
    folder.write(block(2), bytes(5000))
    assert folder.read(block(2)) == bytes(5000)
    assert folder.read(block(1)) is None


def test_a_limit_of_nothing_is_a_limit(tmp_path: Path) -> None:
    """Regression: it was taken for none, where the disk was full when the cache was opened."""
    folder = BlockFolder(tmp_path, 0, 0)
    for number in range(4):
        for part in (0, 1):
            folder.write(block(number, part), bytes(1000))
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 2 * (1000 + entry_format.HEADER_SIZE)
    folder.fit()
    assert files(tmp_path) == []


def test_without_a_limit_nothing_goes_for_what_comes(tmp_path: Path) -> None:
    disk = SmallDisk()
    folder = BlockFolder(tmp_path, None, 10_000, Environment(disk))
    for number in range(40):
        assert folder.write(block(number, number % PARTS), bytes(1000))
    folder.fit()
    disk.free = 10_000
    assert not folder.write(block(40), bytes(1000))
    assert len(files(tmp_path)) == 40


def test_it_gives_way_when_the_disk_fills(tmp_path: Path) -> None:
    disk = SmallDisk()
    folder = BlockFolder(tmp_path, LARGE, 10_000, Environment(disk))
    for number in range(10):
        folder.write(block(number, number), bytes(1000))
    assert folder.give_way() == 0
    disk.free = 0
    assert folder.give_way() > 9_000
    assert files(tmp_path) == []


@given(st.lists(st.integers(0, 5000), min_size=PARTS, max_size=PARTS), st.integers(1, 40_000))
@settings(max_examples=30)
def test_it_gives_way_by_as_much_as_is_lacking(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lacking: int
) -> None:
    """However unlike its parts are filled."""
    path, disk = tmp_path_factory.mktemp("folder"), SmallDisk()
    folder = BlockFolder(path, LARGE, lacking, Environment(disk))
    for part, size in enumerate(sizes):
        for number in range(0, size, 500):
            folder.write(block(number, part), bytes(500))
    held = folder.used()
    disk.free = 0
    assert folder.give_way() >= min(lacking, held)
    assert folder.used() <= max(held - lacking, 0)


def test_nothing_is_written_into_the_reserve(tmp_path: Path) -> None:
    disk = SmallDisk()
    folder = BlockFolder(tmp_path, LARGE, 10_000, Environment(disk))
    disk.free = 10_500
    folder.write(block(1), bytes(1000))
    assert folder.read(block(1)) is None
    disk.free = 12_000
    folder.write(block(1), bytes(1000))
    assert folder.read(block(1)) == bytes(1000)


def test_what_a_process_left_in_the_middle_goes(tmp_path: Path) -> None:
    clock = Clock()
    left = tmp_path / "0" / ".tmp-0123456789abcdef"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (clock.now, clock.now))
    BlockFolder(tmp_path, LARGE, 0, Environment(wall_clock=clock)).used()
    assert left.exists(), "another process may be writing it"
    clock.now += 4000
    BlockFolder(tmp_path, LARGE, 0, Environment(wall_clock=clock)).used()
    assert not left.exists()


def test_several_processes_share_it(tmp_path: Path) -> None:
    """Two folders over one path, as two mounts have them, from several threads: every answer is right."""
    folders = [BlockFolder(tmp_path, PARTS * 30_000, 0) for _ in range(2)]
    failures: list[str] = []

    def work(seed: int) -> None:
        for step in range(60):
            number = (seed * 7 + step * 3) % 20
            data = content("text", 5000, number)
            folder = folders[(seed + step) % 2]
            found = folder.read(block(number))
            if found is None:
                folder.write(block(number), data)
            elif found != data:
                failures.append(f"block {number}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_several_processes_keep_one_limit(tmp_path: Path) -> None:
    """Each has looked before the others wrote."""
    folders = [BlockFolder(tmp_path, PARTS * 30_000, 0) for _ in range(8)]
    for folder in folders:
        folder.used()
    for number in range(40):
        folders[number % 8].write(block(number), bytes(5000))
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 30_000 + 8 * 5068


def test_a_file_that_the_disk_cannot_read_is_absent_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: it had the whole cache rest, each time that somebody read there."""
    folder = BlockFolder(tmp_path, LARGE, 0)
    folder.write(block(1), b"one")

    def bad_sector(_header: bytes, _data: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(entry_format, "require_checksum", bad_sector)
        assert folder.read(block(1)) is None
    assert files(tmp_path) == []
    folder.write(block(1), b"one")
    assert folder.read(block(1)) == b"one"


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "sealed", LARGE, 0)
    folder.write(block(1), b"one")
    for file in files(tmp_path):
        file.unlink()
    (tmp_path / "sealed" / "0").rmdir()
    (tmp_path / "sealed").rmdir()
    assert folder.read(block(1)) is None
    folder.write(block(1), b"one")
    assert folder.read(block(1)) == b"one"


def test_files_are_nobody_elses(tmp_path: Path) -> None:
    BlockFolder(tmp_path / "sealed", LARGE, 0).write(block(1), b"one")
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "sealed").rglob("*")} == {0}
