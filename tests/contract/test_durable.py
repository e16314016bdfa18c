"""What every disk promises (backend.system.durable.Durable): what was synced survives a power cut, what was
not may not, and no file holds what nobody wrote.

The real disk is never cut off here: it keeps all, which the promises allow. The disk that forgets is cut off
in many ways, and does lose what it may.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import apsw
import pytest

from backend.system.durable import Durable, NotBegunError
from tests.changing_disk import ChangingDisk
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all

SEEDS = 24
BIG = bytes(range(256)) * 64


@contextmanager
def real(_folder: Path, _seed: int) -> Iterator[Durable]:
    yield Durable()


@contextmanager
def lossy(folder: Path, seed: int) -> Iterator[Durable]:
    """Its power goes at the end."""
    disk = LossyDurable(random.Random(seed), folder.with_name(f"{folder.name} kept"))
    with all_lossy(disk):
        yield disk
        disk.stop()
    cut_all(disk, folder)


Kind = Callable[[Path, int], AbstractContextManager[Durable]]


@pytest.fixture(params=[real, lossy])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def lives(kind: Kind, tmp_path: Path, life: Callable[[Durable, Path], None]) -> Iterator[Path]:
    """The folder after each of several ends of such a life."""
    for seed in range(SEEDS if kind is lossy else 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with kind(folder, seed) as disk:
            life(disk, folder)
        yield folder


def put(disk: Durable, path: Path, data: bytes, *, synced: bool = True) -> None:
    descriptor = disk.open(str(path), os.O_RDWR | os.O_CREAT)
    disk.write(descriptor, [data], 0)
    if synced:
        disk.sync(descriptor)
    os.close(descriptor)


def named(disk: Durable, path: Path, data: bytes) -> None:
    """A file that is durable, and so is its name."""
    put(disk, path, data)
    disk.sync_folder(str(path.parent))


@pytest.mark.parametrize("sync", ["sync", "sync_data"])
def test_bytes_that_were_synced_survive(kind: Kind, tmp_path: Path, sync: str) -> None:
    def life(disk: Durable, folder: Path) -> None:
        descriptor = disk.open(str(folder / "file"), os.O_RDWR | os.O_CREAT)
        disk.sync_folder(str(folder))
        assert disk.write(descriptor, [BIG[:5000], BIG[5000:]], 0) == len(BIG)
        getattr(disk, sync)(descriptor)
        disk.write(descriptor, [b"later"], len(BIG))
        os.close(descriptor)

    for folder in lives(kind, tmp_path, life):
        found = (folder / "file").read_bytes()
        assert found[: len(BIG)] == BIG
        assert found[len(BIG) :] in (b"", b"later")


def test_bytes_that_were_not_synced_are_the_old_or_the_new(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "file", b"o" * 8192)
        put(disk, folder / "file", b"n" * 8192, synced=False)

    for folder in lives(kind, tmp_path, life):
        found = (folder / "file").read_bytes()
        assert len(found) == 8192
        assert {found[start : start + 512] for start in range(0, 8192, 512)} <= {b"o" * 512, b"n" * 512}


def test_a_name_that_was_synced_survives_others_may(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "first", b"first")
        put(disk, folder / "second", b"second")

    for folder in lives(kind, tmp_path, life):
        assert (folder / "first").read_bytes() == b"first"
        assert {path.name for path in folder.iterdir()} <= {"first", "second"}


def test_a_file_that_takes_the_place_of_another_is_one_of_the_two(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "file", b"old")
        put(disk, folder / "new", b"new")
        disk.rename(str(folder / "new"), str(folder / "file"))

    for folder in lives(kind, tmp_path, life):
        assert (folder / "file").read_bytes() in (b"old", b"new")


def test_a_move_that_was_synced_is_whole(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "old", b"x")
        disk.rename(str(folder / "old"), str(folder / "new"))
        disk.sync_folder(str(folder))

    for folder in lives(kind, tmp_path, life):
        assert [path.name for path in folder.iterdir()] == ["new"]
        assert (folder / "new").read_bytes() == b"x"


def test_a_removal_that_was_synced_is_for_good(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "gone", b"x")
        named(disk, folder / "kept", b"y")
        disk.unlink(str(folder / "gone"))
        disk.sync_folder(str(folder))
        disk.unlink(str(folder / "kept"))

    for folder in lives(kind, tmp_path, life):
        assert not (folder / "gone").exists()
        assert not (folder / "kept").exists() or (folder / "kept").read_bytes() == b"y"


def test_of_two_links_one_wins(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "mine", b"mine")
        disk.link(str(folder / "mine"), str(folder / "file"))
        disk.sync_folder(str(folder))
        with pytest.raises(FileExistsError):
            disk.link(str(folder / "mine"), str(folder / "file"))

    for folder in lives(kind, tmp_path, life):
        assert (folder / "file").read_bytes() == b"mine"


def test_a_whole_file_is_there_and_nothing_beside_it(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        disk.write_file(str(folder / "file"), [b"first"])
        disk.write_file(str(folder / "file"), [b"sec", b"ond"])
        disk.write_file(str(folder / "other"), [BIG], exclusive=True)
        with pytest.raises(FileExistsError):
            disk.write_file(str(folder / "other"), [b""], exclusive=True)
        disk.sync_folder(str(folder))

    for folder in lives(kind, tmp_path, life):
        assert (folder / "file").read_bytes() == b"second"
        assert (folder / "other").read_bytes() == BIG
        assert len(list(folder.iterdir())) == 2


def test_folders_that_were_made_durable_keep_what_is_in_them(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        disk.make_folders(str(folder / "a/b"))
        named(disk, folder / "a/b/file", b"x")
        disk.make_folder(str(folder / "unsynced"))

    for folder in lives(kind, tmp_path, life):
        assert (folder / "a/b/file").read_bytes() == b"x"


def test_by_the_descriptor_of_a_folder(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            disk.write_file(str(folder / "file"), [b"x"], folder=inside)
            disk.write_file(str(folder / "gone"), [b"y"], folder=inside)
            disk.make_folder(str(folder / "below"), folder=inside)
            disk.rename(str(folder / "file"), str(folder / "moved"), folder=inside)
            disk.unlink(str(folder / "gone"), folder=inside)
            disk.sync_folder(str(folder), folder=inside)
        finally:
            os.close(inside)

    for folder in lives(kind, tmp_path, life):
        assert sorted(path.name for path in folder.iterdir()) == ["below", "moved"]
        assert (folder / "moved").read_bytes() == b"x"


def test_room_that_was_reserved_is_zeros(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        descriptor = disk.open(str(folder / "file"), os.O_RDWR | os.O_CREAT)
        disk.preallocate(descriptor, 10_000)
        disk.write(descriptor, [b"x"], 20)
        disk.sync_data(descriptor)
        disk.sync_folder(str(folder))
        os.close(descriptor)

    for folder in lives(kind, tmp_path, life):
        assert (folder / "file").read_bytes() == bytes(20) + b"x" + bytes(10_000 - 21)


@pytest.mark.parametrize("synced", [False, True])
def test_a_truncation_that_was_synced_is_for_good(kind: Kind, tmp_path: Path, synced: bool) -> None:
    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "file", BIG)
        descriptor = disk.open(str(folder / "file"), os.O_RDWR)
        disk.truncate(descriptor, 3000)
        if synced:
            disk.sync(descriptor)
        os.close(descriptor)

    for folder in lives(kind, tmp_path, life):
        assert (folder / "file").read_bytes() in ([BIG[:3000]] if synced else [BIG[:3000], BIG])


def test_what_a_database_committed_durably_survives(kind: Kind, tmp_path: Path) -> None:
    def life(disk: Durable, folder: Path) -> None:
        with database(disk, folder / "db") as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE numbers (number INTEGER)")
            for number in range(20):
                connection.execute("INSERT INTO numbers VALUES (?)", (number,))
            disk.sync_folder(str(folder))
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("INSERT INTO numbers VALUES (20)")

    for folder in lives(kind, tmp_path, life):
        with database(Durable(), folder / "db") as connection:
            numbers = [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]
        assert numbers[:20] == list(range(20))
        assert numbers[20:] in ([], [20])


@contextmanager
def database(disk: Durable, path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path), vfs=disk.database_vfs)
    try:
        yield connection
    finally:
        connection.close()


def test_what_the_kernel_refuses_is_raised(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with kind(folder, 0) as disk:
        with pytest.raises(NotBegunError):
            disk.sync_folder(str(folder / "missing"))
        with pytest.raises(FileNotFoundError):
            disk.open(str(folder / "missing"), os.O_RDWR)
        with pytest.raises(FileNotFoundError):
            disk.unlink(str(folder / "missing"))
        put(disk, folder / "file", b"x")
        with pytest.raises(FileExistsError):
            disk.make_folders(str(folder / "file/below"))
        total, free = disk.free_space(str(folder))
        assert 0 < free <= total


# What only the disk that forgets does


def test_it_loses_what_was_not_synced(tmp_path: Path) -> None:
    """Each of them at one end at least, and not at every end: the suite above can fail."""

    def life(disk: Durable, folder: Path) -> None:
        named(disk, folder / "bytes", b"old")
        put(disk, folder / "bytes", b"new", synced=False)
        disk.make_folder(str(folder / "below"))
        put(disk, folder / "name", b"x")
        with database(disk, folder / "db") as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE t (a)")

    kept = {"bytes": 0, "name": 0, "below": 0, "db": 0}
    for folder in lives(lossy, tmp_path, life):
        kept["bytes"] += (folder / "bytes").read_bytes() == b"new"
        kept["name"] += (folder / "name").exists()
        kept["below"] += (folder / "below").exists()
        kept["db"] += (folder / "db").exists() and (folder / "db").stat().st_size > 0
    assert all(0 < number < SEEDS for number in kept.values()), kept


COMPOSED: Final = {"make_folders", "write_file"}
"""Calls that are made of others."""


@pytest.mark.parametrize(("disk", "alike"), [(LossyDurable, {"free_space"}), (ChangingDisk, set[str]())])
def test_no_call_goes_past_a_disk_of_tests(disk: type[Durable], alike: set[str]) -> None:
    """One that is new in `Durable` would be done for real, and not be noted."""
    calls = {name for name, call in vars(Durable).items() if callable(call) and not name.startswith("_")}
    assert calls - COMPOSED - alike - vars(disk).keys() == set()


def test_one_disk_loses_nothing_by_the_power_cut_of_another(tmp_path: Path) -> None:
    """Both in one process, with the same calls in turns; databases too."""
    folders = [tmp_path / "lucky", tmp_path / "cut"]
    lucky, cut = (
        LossyDurable(random.Random(1), tmp_path / f"kept {number}", lies=bool(number)) for number in range(2)
    )
    with all_lossy(lucky), all_lossy(cut):
        for disk, folder in zip((lucky, cut), folders, strict=True):
            folder.mkdir()
            put(disk, folder / "unsynced", b"x", synced=False)
            with database(disk, folder / "db") as connection:
                connection.execute("CREATE TABLE t (a)")
    cut_all(cut, tmp_path / "cut")
    assert sorted(path.name for path in folders[0].iterdir()) == ["db", "unsynced"]
    assert (folders[0] / "unsynced").read_bytes() == b"x"
    assert list(folders[1].iterdir()) == []
