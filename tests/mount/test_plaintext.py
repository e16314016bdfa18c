"""Nothing that a user wrote is found under the nodes: no content, name, attribute value or link target.
On the machine itself, content stays as long as it is not stored, and names as long as the drive has them."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, succeed

pytestmark = pytest.mark.mount

MARKS = {
    "content": b"PLAINTEXT-of-the-content-7f3a",
    "name": b"PLAINTEXT-of-the-name-91bc",
    "folder": b"PLAINTEXT-of-the-folder-5d20",
    "attribute name": b"PLAINTEXT-of-the-attribute-name-c4",
    "attribute value": b"PLAINTEXT-of-the-attribute-value-a8",
    "target": b"PLAINTEXT-of-the-target-33ee",
}


def found_in(folder: Path) -> list[str]:
    """Which marks are in the files under `folder`, or in their names."""
    everything = b"\n".join(
        os.fsencode(path) + b"\n" + (path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )
    return [what for what, mark in MARKS.items() if mark in everything]


def write_marks(folder: Path) -> None:
    inside = folder / os.fsdecode(MARKS["folder"])
    inside.mkdir()
    path = inside / os.fsdecode(MARKS["name"])
    path.write_bytes(MARKS["content"] * 3 + os.urandom(300_000) + MARKS["content"])
    os.setxattr(path, b"user." + MARKS["attribute name"], MARKS["attribute value"])
    (inside / "link").symlink_to(os.fsdecode(MARKS["target"]))


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    write_marks(tmp_path)
    assert found_in(tmp_path) == ["content", "name", "folder"]


def test_no_plaintext_under_the_drive(drive: MountedDrive) -> None:
    drive.mount("commit_interval=100ms")
    write_marks(drive.mountpoint)
    drive.sync()
    assert found_in(drive.drive) == []
    drive.umount()
    assert found_in(drive.drive) == []
    assert any(path.is_file() for path in (drive.nodes()[0] / "packs").rglob("*"))


def places_of(mark: bytes, *folders: Path) -> set[str]:
    """The kinds of files in which a mark is."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.suffix or path.name for path in files if mark in _bytes_of(path)}


def _bytes_of(path: Path) -> bytes:
    """Nothing, if it has got its name meanwhile: a record of the lease, which is renewed beside."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not path.name.startswith(".tmp-"):
            raise
        return b""


def written(folder: Path, seed: int) -> list[bytes]:
    """Files of every kind, small enough for a record or beside it, one rewritten and one overwritten, each
    with a mark of its own; the marks."""
    source, marks = random.Random(seed), []
    for number, (kind, size) in enumerate(itertools.product(KINDS, (40, 9_000, 200_000, 3_000_000))):
        marks += [b"PLAIN-%d-%d-%s" % (seed, number, what) for what in (b"first", b"second")]
        path, data = folder / f"file {number}", content(kind, size, seed)
        at = source.randrange(len(data))
        path.write_bytes(data[:at] + marks[-2] + data[at:])
        if source.random() < 0.5:
            with open(path, "r+b") as file:
                file.seek(source.randrange(size))
                file.write(marks[-1])
                os.fsync(file.fileno())
    return marks


@pytest.mark.parametrize("seed", range(2))
def test_stored_content_is_nowhere_in_clear(drive: MountedDrive, seed: int) -> None:
    """Not even while it is mounted, and neither deleted nor kept."""
    drive.mount("journal_size=64M")
    marks = written(drive.mountpoint, seed)
    assert any(places_of(mark, drive.state) == {".bulk"} for mark in marks)
    assert any(places_of(mark, drive.state) == {".journal"} for mark in marks)
    drive.sync()
    assert {mark for mark in marks if places_of(mark, drive.state, drive.cache, drive.drive)} == set()
    for path in random.Random(seed).sample([*drive.mountpoint.iterdir()], 12):
        path.unlink()
    drive.sync()
    more = written(drive.mountpoint, seed + 1000)
    drive.umount()
    left = {mark for mark in (*marks, *more) if places_of(mark, drive.state, drive.cache, drive.drive)}
    assert left == set()


def test_names_are_in_the_namespace_and_go_when_they_are_forgotten(drive: MountedDrive) -> None:
    name = "PLAINTEXT-of-a-name-e7"
    drive.mount()
    (drive.mountpoint / name).write_bytes(b"content")
    (drive.mountpoint / name).unlink()
    drive.sync()
    assert places_of(name.encode(), drive.state) <= {".db", ".db-wal"}, "an earlier state has it"
    keep = [f"--{span}" for span in ("all", "hourly", "daily", "weekly", "monthly")]
    policy = [word for span in keep for word in (span, "0")]
    succeed(drive.tool("drivefs", "retention", "set", drive.mountpoint, *policy))
    for number in range(3):
        (drive.mountpoint / f"other {number}").write_bytes(b"")
        drive.sync()
    succeed(drive.tool("drivefs", "gc", drive.mountpoint, "--grace", "0", "--trust-clock"))
    drive.umount()
    assert places_of(name.encode(), drive.state, drive.cache, drive.drive) == set()


def test_what_lies_on_the_machine_is_for_its_owner_only(drive: MountedDrive) -> None:
    """Under a umask that hides nothing."""
    before = os.umask(0)
    try:
        drive.mount()
        (drive.mountpoint / "file").write_bytes(b"content")
        drive.sync()
        files = [path for folder in (drive.cache, drive.state) for path in folder.rglob("*")]
        modes = {path.name: path.stat().st_mode & 0o777 for path in files}
        drive.umount()
    finally:
        os.umask(before)
    assert {"blocks.db", "blocks.db-wal", "namespace.db", "namespace.db-wal"} <= modes.keys()
    assert {name: mode for name, mode in modes.items() if mode & 0o077 and len(name) != 32} == {}
