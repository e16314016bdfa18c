"""Replacing the copies of `drive.toml`: who was stopped in the middle puts nothing over what came later, and
a map comes to majorities of the voters before it and after it or not into force."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from backend.cluster import drive_file, drive_file_copies
from backend.cluster.check_nodes import Survey, survey
from backend.cluster.drive_file import DriveFile
from backend.cluster.drive_file_copies import mend_copy
from backend.errors import ConflictError, UnavailableError
from backend.nodes import DirectoryPlace
from backend.system import patience
from tests.small_drive import SmallDrive, make_empty_drive

VOTERS = 5
LONG = 30.0
"""Seconds after which a call that hangs goes on, so that a test that fails ends."""


@pytest.fixture
def drive(tmp_path: Path) -> SmallDrive:
    return make_empty_drive(tmp_path)


def copies(drive: SmallDrive) -> set[bytes]:
    """What the drive's folder and all nodes say, if they are there."""
    return {path.read_bytes() for path in drive.drive.glob("**/drive.toml")}


class Hanging:
    """Folders in which small objects are not replaced before the end; nothing else waits for them long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, drive: Path, names: Iterable[str]) -> None:
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        folders, replaced = {str(drive / name) for name in names}, DirectoryPlace.replace

        def replace_late(place: DirectoryPlace, name: str, expected: bytes | None, data: bytes) -> bool:
            if place.folder in folders:
                self._threads.append(threading.current_thread())
                self._ended.wait(LONG)
            return replaced(place, name, expected, data)

        monkeypatch.setattr(DirectoryPlace, "replace", replace_late)
        monkeypatch.setattr(patience, "SECONDS", 1.0)

    def end(self) -> int:
        """So many calls hung; they are at their end."""
        self._ended.set()
        for thread in self._threads:
            thread.join(LONG)
        return len(self._threads)


def reweighted(file: DriveFile, name: str) -> DriveFile:
    """The next map, in which this node takes nothing."""
    nodes = tuple(replace(node, weight=0.0 if node.name == name else node.weight) for node in file.nodes)
    return replace(file, nodes=nodes, epoch=file.epoch + 1)


def take_away(drive: SmallDrive, names: Iterable[str]) -> None:
    for name in names:
        (drive.drive / name).rename(drive.folder / name)


def looked_at(drive: SmallDrive) -> tuple[str, Survey]:
    return str(drive.drive), survey(str(drive.drive))


def test_who_was_stopped_after_looking_puts_nothing_over_a_later_map(drive: SmallDrive) -> None:
    """Regression: a changer that was suspended for longer than its lease wrote its map over that of who had
    the lease after it, and had moved everything by then."""
    folder, seen = looked_at(drive)
    later = reweighted(seen.file, "node1")
    assert drive_file_copies.replace_copies(folder, seen, later) == []
    with pytest.raises(ConflictError, match="changed just now"):
        drive_file_copies.replace_copies(folder, seen, reweighted(seen.file, "node2"))
    assert copies(drive) == {drive_file.encode(later)}


def test_a_change_of_keys_is_no_way_back_to_an_older_map(drive: SmallDrive) -> None:
    folder, seen = looked_at(drive)
    later = reweighted(seen.file, "node1")
    drive_file_copies.replace_copies(folder, seen, later)
    with pytest.raises(ConflictError):
        drive_file_copies.replace_copies(folder, seen, replace(seen.file, slots=seen.file.slots[:1]))
    assert copies(drive) == {drive_file.encode(later)}


def test_it_is_repeated_after_an_interruption_anywhere(drive: SmallDrive) -> None:
    folder, seen = looked_at(drive)
    new = reweighted(seen.file, "node1")
    for number in range(6):
        (drive.drive / f"node{number}" / "drive.toml").write_bytes(drive_file.encode(new))
        again = survey(folder)
        assert drive_file_copies.replace_copies(folder, again, new) == []
        assert copies(drive) == {drive_file.encode(new)}
        new = replace(new, epoch=new.epoch + 1)


@pytest.mark.parametrize("away", [1, 2, 3])
def test_a_map_comes_to_a_majority_of_the_voters_or_not_into_force(drive: SmallDrive, away: int) -> None:
    folder, seen = looked_at(drive)
    voters = [node.name for node in seen.file.nodes if node.votes]
    assert len(voters) == VOTERS
    take_away(drive, voters[:away])
    new = reweighted(seen.file, voters[-1])
    if away <= VOTERS // 2:
        lines = drive_file_copies.replace_copies(folder, survey(folder), new)
        assert [line.partition(":")[0] for line in lines] == voters[:away]
        assert survey(folder).file == new
        return
    with pytest.raises(UnavailableError, match="too few can be told: node0: not there"):
        drive_file_copies.replace_copies(folder, survey(folder), new)
    assert drive_file.load(f"{folder}/drive.toml") == seen.file
    assert survey(folder).file == seen.file


def test_voters_that_are_let_go_of_are_told_and_count(drive: SmallDrive) -> None:
    """Of two voters both must have the map in which one of them is none any more."""
    folder, seen = looked_at(drive)
    nodes = tuple(replace(node, votes=node.name in ("node0", "node1")) for node in seen.file.nodes)
    two = replace(seen.file, nodes=nodes, epoch=seen.file.epoch + 1)
    drive_file_copies.replace_copies(folder, seen, two)
    one = replace(two, nodes=nodes[1:], epoch=two.epoch + 1)
    seen = survey(folder)
    drive_file_copies.replace_copies(folder, seen, one)
    assert copies(drive) == {drive_file.encode(one)}
    take_away(drive, ["node1"])
    with pytest.raises(UnavailableError):
        drive_file_copies.replace_copies(folder, survey(folder), reweighted(one, "node2"))


def test_a_copy_that_was_damaged_or_lost_is_written(drive: SmallDrive) -> None:
    (drive.drive / "node2" / "drive.toml").write_bytes(b"\xff damaged")
    (drive.drive / "node3" / "drive.toml").unlink()
    folder, seen = looked_at(drive)
    new = reweighted(seen.file, "node1")
    assert drive_file_copies.replace_copies(folder, seen, new) == []
    assert copies(drive) == {drive_file.encode(new)}


@pytest.mark.parametrize("hanging", [1, 3])
def test_a_place_that_hangs_while_it_is_written_to_is_not_waited_for(
    drive: SmallDrive, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    """Regression: a frozen file system held a change up for ever, and with it all publishing of a mount. What
    comes to it in the end is the new copy."""
    folder, seen = looked_at(drive)
    voters = [node.name for node in seen.file.nodes if node.votes]
    new, hang = reweighted(seen.file, voters[-1]), Hanging(monkeypatch, drive.drive, voters[:hanging])
    if hanging == 1:
        (line,) = drive_file_copies.replace_copies(folder, seen, new)
        assert line.startswith(f"{voters[0]}: does not answer")
        assert survey(folder).file == new
    else:
        with pytest.raises(UnavailableError, match="too few can be told: node0: does not answer"):
            drive_file_copies.replace_copies(folder, seen, new)
        assert drive_file.load(f"{folder}/drive.toml") == seen.file
    assert hang.end() == hanging
    assert all((drive.drive / name / "drive.toml").read_bytes() == drive_file.encode(new) for name in voters)


def test_a_drive_folder_that_hangs_is_not_waited_for(
    drive: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = looked_at(drive)
    new, hang = reweighted(seen.file, "node1"), Hanging(monkeypatch, drive.drive, ["."])
    with pytest.raises(UnavailableError, match="the next change of them finishes this one"):
        drive_file_copies.replace_copies(folder, seen, new)
    assert hang.end() == 1
    assert copies(drive) == {drive_file.encode(new)}


@pytest.mark.parametrize("there", [None, b"", b"damaged", b"# of a later map"])
def test_a_copy_is_mended_where_it_is_as_it_was_seen(drive: SmallDrive, there: bytes | None) -> None:
    copy = drive.drive / "node1" / "drive.toml"
    copy.unlink()
    if there is not None:
        copy.write_bytes(there)
    folder, seen = looked_at(drive)
    [(place, _)] = seen.wrong
    copy.write_bytes(b"of somebody else meanwhile")
    assert not mend_copy(place, seen)
    assert copy.read_bytes() == b"of somebody else meanwhile"
    assert mend_copy(place, survey(folder))
    assert len(copies(drive)) == 1


SIZES = (5_000, drive_file.MAX_SIZE, drive_file.MAX_SIZE + 1, drive_file.MAX_SIZE + 2, 5 << 30)


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_that_was_made_long_is_written_over(drive: SmallDrive, size: int) -> None:
    os.truncate(drive.drive / "node1" / "drive.toml", size)
    _, seen = looked_at(drive)
    [(place, _)] = seen.wrong
    assert mend_copy(place, seen)
    assert len(copies(drive)) == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_that_was_made_long_holds_up_no_change(drive: SmallDrive, size: int) -> None:
    for name in ("node0", "node1", "."):
        os.truncate(drive.drive / name / "drive.toml", size)
    folder, seen = looked_at(drive)
    new = reweighted(seen.file, "node1")
    assert drive_file_copies.replace_copies(folder, seen, new) == []
    assert copies(drive) == {drive_file.encode(new)}


def test_a_copy_that_cannot_be_read_is_mended(drive: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, read = drive.drive / "node1" / "drive.toml", DirectoryPlace.read
    copy.write_bytes(b"in a bad sector")

    def read_around(place: DirectoryPlace, name: str, limit: int) -> bytes | None:
        if place.folder == str(copy.parent):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(place, name, limit)

    monkeypatch.setattr(DirectoryPlace, "read", read_around)
    _, seen = looked_at(drive)
    [(place, text)] = seen.wrong
    assert "can be read" in text
    assert mend_copy(place, seen)
    assert len(copies(drive)) == 1
