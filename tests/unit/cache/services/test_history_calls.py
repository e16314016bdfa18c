"""The calls log, diff, restore and clone on a drive on a memory upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR, S_ISDIR
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
import trio

import cache.services.clone
from backend.commits.commit_format import payload_associated_data
from backend.keys.key_ring import KeyRing
from backend.upstream import Commit
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    ExistsError,
    FileSystemError,
    InvalidArgumentError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    ReadOnlyFileSystemError,
    StaleError,
)
from cache.namespace.operations import ROOT_INODE, Operation, SetWriter, decode
from cache.publish.commit_payload import open_operations
from cache.services import make_conflict_copy
from cache.services.calls import services_of
from cache.sync.changes import AttributesChanged, Change, NameChanged
from tests.drives import DRIVE_ID, KEYS, QUIET, content_of, make_file, opened, tree
from tests.key_rings import ring_of_log
from tests.memory_upstream import MemoryUpstream


@pytest.fixture
def upstream() -> MemoryUpstream:
    return MemoryUpstream()


@pytest.fixture
async def drive(tmp_path: Path, upstream: MemoryUpstream) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", upstream) as made:
        yield made


async def call(drive: Drive, name: str, **arguments: Any) -> dict[str, Any]:
    return dict(await services_of(drive)[name](arguments))


async def make_tree(drive: Drive) -> int:
    """`top` with a folder, files, a hard link, a symbolic link, a FIFO, attributes; its inode."""
    top = (await drive.make_node(ROOT_INODE, b"top", S_IFDIR | 0o750, 0, 3, 4)).inode
    sub = (await drive.make_node(top, b"sub", S_IFDIR | 0o2755, 0, 0, 0)).inode
    file = (await make_file(drive, b"f", b"content" * 1000, sub, mode=0o4711)).inode
    await drive.link(file, top, b"hard")
    await make_file(drive, b"\xff name", b"x" * 300_000, sub)
    sparse = (await make_file(drive, b"sparse", b"begin", sub)).inode
    await drive.write(sparse, 5_000_000, b"end")
    await drive.settle(sparse)
    await drive.symlink(top, b"link", b"sub/f", 1, 2)
    await drive.make_node(top, b"fifo", 0o010644, 0, 0, 0)
    await drive.set_xattr(file, b"user.x", b"\0\1")
    await drive.set_xattr(sub, b"user.dir", b"y")
    for inode in (file, sub, top):
        await drive.set_attributes(inode, AttributeChange(mtime_ns=1_000_000_000 + inode))
    return top


def alike(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without inode numbers, but with which names are one inode."""
    first: dict[object, bytes] = {}
    for path, item in found.items():
        first.setdefault(item[0], path)
    return {path: (first[item[0]], *item[1:]) for path, item in found.items()}


async def below(drive: Drive, name: bytes) -> dict[bytes, tuple[object, ...]]:
    return alike(await tree(drive, drive.lookup(ROOT_INODE, name).inode))


async def test_a_clone_is_alike_and_stores_nothing(drive: Drive, upstream: MemoryUpstream) -> None:
    top = await make_tree(drive)
    await drive.sync()
    stored = dict(upstream.stored)
    assert await call(drive, "clone", source="top", target="copy") == {"made": 7}
    assert await below(drive, b"copy") == await below(drive, b"top")
    old, new = drive.attributes(top), drive.lookup(ROOT_INODE, b"copy")
    assert replace(new, inode=top, ctime_ns=0, atime_ns=0) == replace(old, ctime_ns=0, atime_ns=0)
    await drive.sync()
    assert upstream.stored == stored
    commit = upstream.commits[-1][0]
    assert set(commit.added) == set(upstream.commits[1][0].added)


async def test_a_clone_is_one_commit_and_survives(tmp_path: Path, upstream: MemoryUpstream) -> None:
    async with opened(tmp_path / "cache", upstream) as drive:
        await make_tree(drive)
        await drive.sync()
        before = len(upstream.commits)
        await call(drive, "clone", source="top", target="copy")
        await drive.sync()
        assert len(upstream.commits) == before + 1
        expected = await below(drive, b"top")
    async with opened(tmp_path / "elsewhere", upstream) as drive:
        assert await below(drive, b"copy") == expected


async def test_an_unpublished_clone_survives_a_crash(tmp_path: Path, upstream: MemoryUpstream) -> None:
    async with opened(tmp_path / "cache", upstream, crash=True) as drive:
        await make_tree(drive)
        await call(drive, "clone", source="top", target="copy")
        expected = await below(drive, b"top")
    async with opened(tmp_path / "cache", upstream) as drive:
        assert await below(drive, b"copy") == expected
        await drive.sync()


async def test_a_clone_is_independent(drive: Drive) -> None:
    await make_file(drive, b"a", b"one")
    await call(drive, "clone", source="a", target="b")
    copy = drive.lookup(ROOT_INODE, b"b").inode
    await drive.write(copy, 0, b"two")
    await drive.settle(copy)
    await drive.sync()
    assert (await content_of(drive, b"a"), await content_of(drive, b"b")) == (b"one", b"two")
    await drive.unlink(ROOT_INODE, b"a")
    await drive.sync()
    assert await content_of(drive, b"b") == b"two"


async def test_a_file_comes_back_in_its_place(drive: Drive) -> None:
    made = await make_file(drive, b"f", b"good")
    await drive.sync()
    good = drive.past.head
    await drive.write(made.inode, 0, b"bad!")
    await drive.settle(made.inode)
    told: list[Change] = []

    async def note(changes: Sequence[Change]) -> None:
        told.extend(changes)

    async with trio.open_nursery() as nursery:
        await nursery.start(drive.changes.serve, "a door", note)
        assert await call(drive, "restore", path="f", at=f"@{good}") == {"made": 1, "commit": good}
        nursery.cancel_scope.cancel()
    assert await content_of(drive, b"f") == b"good"
    assert drive.lookup(ROOT_INODE, b"f").mtime_ns == made.mtime_ns
    assert told == [
        NameChanged(ROOT_INODE, b"f"),
        AttributesChanged(ROOT_INODE),
        AttributesChanged(made.inode),
    ]
    await drive.sync()
    contents = [
        bytes(await drive.past.read(item.version.inode, item.commit, 0, 9))
        for item in drive.past.versions(ROOT_INODE, b"f")
    ]
    assert contents == [b"good", b"bad!", b"good"]


async def test_a_deleted_tree_comes_back(drive: Drive) -> None:
    top = await make_tree(drive)
    await drive.sync()
    at, expected = drive.past.head, await below(drive, b"top")

    async def remove(directory: int) -> None:
        for entry in drive.entries(directory, 0, 100):
            if S_ISDIR(entry.attributes.mode):
                await remove(entry.attributes.inode)
                await drive.remove_directory(directory, entry.name)
            else:
                await drive.unlink(directory, entry.name)

    await remove(top)
    await drive.remove_directory(ROOT_INODE, b"top")
    await drive.sync()
    assert await call(drive, "restore", path="top/", at=f"@{at}") == {"made": 7, "commit": at}
    assert await below(drive, b"top") == expected
    await drive.make_node(ROOT_INODE, b"empty", S_IFDIR | 0o755, 0, 0, 0)
    await call(drive, "restore", path="top/sub", at=f"@{at}", to="empty")
    assert (await below(drive, b"empty")).keys() == {b"/f", b"/\xff name", b"/sparse"}


async def test_what_is_refused_changes_nothing(drive: Drive) -> None:
    await make_tree(drive)
    await make_file(drive, b"f", b"1")
    await drive.sync()
    at = f"@{drive.past.head}"
    cases: list[tuple[type[FileSystemError], str, dict[str, Any]]] = [
        (NotEmptyError, "restore", {"path": "top", "at": at}),
        (NotEmptyError, "clone", {"source": "top/sub", "target": "top"}),
        (ExistsError, "restore", {"path": "top/hard", "at": at, "to": "f"}),
        (ExistsError, "clone", {"source": "top/hard", "target": "f"}),
        (NotDirectoryError, "clone", {"source": "top", "target": "f"}),
        (DirectoryError, "clone", {"source": "f", "target": "top"}),
        (NoEntryError, "restore", {"path": "nope", "at": at}),
        (NoEntryError, "restore", {"path": "f", "at": at, "to": "nope/f"}),
        (NotDirectoryError, "restore", {"path": "f", "at": at, "to": "f/g"}),
        (NoEntryError, "restore", {"path": "f", "at": "2001-01-01"}),
        (NoEntryError, "restore", {"path": "f", "at": "@99"}),
        (InvalidArgumentError, "restore", {"path": "f", "at": "rubbish"}),
        (InvalidArgumentError, "restore", {"path": "", "at": at}),
        (InvalidArgumentError, "restore", {"path": "top/../f", "at": at}),
        (InvalidArgumentError, "restore", {"path": 5, "at": at}),
        (InvalidArgumentError, "clone", {"source": "f", "target": ""}),
        (InvalidArgumentError, "log", {"path": "f", "limit": 0}),
        (NoEntryError, "restore", {"path": "f", "at": "1999-12-31"}),
        (InvalidArgumentError, "diff", {"path": "f", "first": "5 minutes ago"}),
        (NoEntryError, "log", {"path": "nope"}),
        (NoEntryError, "log", {"path": "nope/nope"}),
        (NoEntryError, "diff", {"path": "nope", "first": at}),
        (NoEntryError, "diff", {"path": "f", "first": "yesterday"}),
    ]
    before, accepted = await tree(drive), drive.ledger.accepted
    for error, name, arguments in cases:
        with pytest.raises(error) as caught:
            await call(drive, name, **arguments)
        assert "\n" not in str(caught.value)
    assert await tree(drive) == before
    assert drive.ledger.accepted == accepted


async def test_too_much_is_refused(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_tree(drive)
    monkeypatch.setattr(cache.services.clone, "MOST_BYTES", 500)
    with pytest.raises(InvalidArgumentError, match="one by one"):
        await call(drive, "clone", source="top", target="copy")
    assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == [b"top"]


async def test_a_file_of_many_extents_with_holes_is_copied_whole(drive: Drive) -> None:
    made = await make_file(drive, b"f")
    for number in range(7):
        await drive.write(made.inode, number * 100_000, b"%d" % number)
    await drive.settle(made.inode)
    await call(drive, "clone", source="f", target="g")
    assert await content_of(drive, b"g") == await content_of(drive, b"f")
    assert drive.lookup(ROOT_INODE, b"g").blocks == drive.lookup(ROOT_INODE, b"f").blocks


async def test_a_state_that_was_forgotten_meanwhile_is_refused(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_file(drive, b"f", b"1")
    await drive.sync()
    monkeypatch.setattr(drive.past, "time_of", lambda commit: 0)
    with pytest.raises(NoEntryError, match="forgotten"):
        await call(drive, "clone", source="f", target="g")
    with pytest.raises(NoEntryError):
        drive.lookup(ROOT_INODE, b"g")


async def test_a_read_only_drive_restores_nothing(tmp_path: Path, upstream: MemoryUpstream) -> None:
    async with opened(tmp_path / "one", upstream) as drive:
        await make_file(drive, b"f", b"1")
        await drive.sync()
    async with opened(tmp_path / "two", upstream, read_only=True) as drive:
        with pytest.raises(ReadOnlyFileSystemError):
            await call(drive, "restore", path="f", at="@2", to="g")
        assert len((await call(drive, "log", path="f"))["entries"]) == 1


async def test_the_log_of_a_file(drive: Drive) -> None:
    made = await make_file(drive, b"f", b"one")
    await drive.sync()
    await drive.write(made.inode, 0, b"longer")
    await drive.settle(made.inode)
    await drive.sync()
    await drive.set_attributes(made.inode, AttributeChange(mode=0o600, uid=7))
    await drive.sync()
    await make_file(drive, b"t", b"third")
    await drive.rename(ROOT_INODE, b"t", ROOT_INODE, b"f")
    await drive.sync()
    await drive.unlink(ROOT_INODE, b"f")
    await make_file(drive, b"unrelated")
    entries = (await call(drive, "log", path="f"))["entries"]
    assert [entry["what"] for entry in entries] == [
        ["deleted"],
        ["replaced", "content", "mode", "owner", "time"],
        ["mode", "owner"],
        ["content"],
        ["created"],
    ]
    assert [entry.get("size") for entry in entries] == [None, 5, 6, 6, 3]
    assert [entry["name"] for entry in entries] == [drive.past.name_of(entry["commit"]) for entry in entries]
    assert (await call(drive, "log", path="f", limit=2))["entries"] == entries[:2]


async def test_the_log_of_a_folder_and_what_was_in_a_deleted_one(drive: Drive) -> None:
    folder = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)).inode
    made = await make_file(drive, b"f", b"1", folder)
    await drive.sync()
    await drive.write(made.inode, 0, b"2")
    await drive.settle(made.inode)
    await drive.sync()
    await drive.unlink(folder, b"f")
    await drive.remove_directory(ROOT_INODE, b"d")
    entries = (await call(drive, "log", path="d"))["entries"]
    assert [entry["what"] for entry in entries] == [["deleted"], ["below"], ["created"]]
    assert [entry["what"] for entry in (await call(drive, "log", path="d/f"))["entries"]] == [
        *(["deleted"], ["content"], ["created"])
    ]
    assert len((await call(drive, "log", path=""))["entries"]) == 3


async def test_diff(drive: Drive) -> None:
    await make_tree(drive)
    await make_file(drive, b"same", b"1")
    await make_file(drive, b"gone", b"1")
    changing = await make_file(drive, b"turns", b"1")
    await drive.sync()
    first = f"@{drive.past.head}"
    sub = drive.lookup(drive.lookup(ROOT_INODE, b"top").inode, b"sub").inode
    await drive.write(drive.lookup(sub, b"f").inode, 0, b"CONTENT")
    await drive.settle(drive.lookup(sub, b"f").inode)
    await drive.set_attributes(drive.lookup(sub, b"\xff name").inode, AttributeChange(mode=0o600))
    await drive.unlink(ROOT_INODE, b"gone")
    await drive.unlink(ROOT_INODE, b"turns")
    await drive.symlink(ROOT_INODE, b"turns", b"x", 0, 0)
    await make_file(drive, b"new", b"1", sub)
    expected = [
        *(["D", "gone"], ["M", "top/hard"], ["M", "top/sub/f"], ["A", "top/sub/new"]),
        *(["P", quote(b"top/sub/\xff name")], ["T", "turns"]),
    ]
    answer = await call(drive, "diff", path="", first=first, second="")
    assert answer == {"changes": expected, "more": False}
    second = f"@{drive.past.head}"
    back = await call(drive, "diff", path="/", first=second, second=first)
    turned = {"A": "D", "D": "A"}
    assert back["changes"] == [[turned.get(kind, kind), path] for kind, path in expected]
    assert (await call(drive, "diff", path="same", first=first))["changes"] == []
    assert (await call(drive, "diff", path="gone", first=first))["changes"] == [["D", "gone"]]
    assert changing.inode != drive.lookup(ROOT_INODE, b"turns").inode


async def test_the_log_says_which_machine_made_a_commit(tmp_path: Path, upstream: MemoryUpstream) -> None:
    for host in ("desk", "lap top", "lap top"):
        options = replace(QUIET, host=host)
        async with opened(tmp_path / host, upstream, options) as drive:
            if host == "desk":
                await make_file(drive, b"f")
            await drive.write(drive.lookup(ROOT_INODE, b"f").inode, 0, host.encode())
            await drive.sync()
            await drive.unlink(ROOT_INODE, b"f")
            await make_file(drive, b"f", host.encode())
            await drive.sync()
    async with opened(tmp_path / "desk", upstream, replace(QUIET, host="desk")) as drive:
        await drive.unlink(ROOT_INODE, b"f")
        entries = (await call(drive, "log", path="f"))["entries"]
        assert [entry["host"] for entry in entries] == ["desk", *["lap%20top"] * 4, *["desk"] * 2]
        assert [entry["device"] for entry in entries] == [1, *[2] * 4, *[1] * 2]
    ring = ring_of_log(DRIVE_ID, KEYS, upstream.commits)
    said = [_writers(commit, ring) for commit, _ in upstream.commits]
    assert [hosts for hosts in said if hosts] == [[b"desk"], [b"lap top"], [b"desk"]]


def _writers(commit: Commit, ring: KeyRing) -> list[bytes]:
    binding = payload_associated_data(DRIVE_ID, commit)
    operations = map(decode, open_operations(ring.of(commit.key_epoch).commit, commit.payload, binding))
    return [operation.host for operation in operations if isinstance(operation, SetWriter)]


async def test_what_nobody_said_is_not_shown(drive: Drive) -> None:
    """As on a drive from before hosts were kept."""
    await make_file(drive, b"f")
    await drive.sync()
    drive.ledger.namespace.synced_connection().execute("DELETE FROM writer")
    (entry,) = (await call(drive, "log", path="f"))["entries"]
    assert "host" not in entry
    assert "device" not in entry


@pytest.mark.parametrize("host", ["", "x" * 300, "one\0two", "h\udce9te"])
async def test_any_name_of_a_host_can_be_kept(tmp_path: Path, upstream: MemoryUpstream, host: str) -> None:
    async with opened(tmp_path, upstream, replace(QUIET, host=host)) as drive:
        await make_file(drive, b"f")
        (entry,) = (await call(drive, "log", path="f"))["entries"]
        assert 0 < len(unquote_to_bytes(entry["host"])) <= 255


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("when", ["before", "while it is planned"])
async def test_a_clone_into_a_folder_that_was_removed_changes_nothing(
    tmp_path: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch, is_held: bool, when: str
) -> None:
    """Who has the folder open keeps its row: a name in it would be in the journal, and in no namespace."""
    async with opened(tmp_path / "cache", upstream) as drive:
        await make_tree(drive)
        await drive.sync()
        commit = drive.past.head
        source = drive.past.lookup(ROOT_INODE, b"top", commit).inode
        folder = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)).inode
        if is_held:
            drive.hold(folder)
        clone = cache.services.clone.Clone(drive, commit, source, folder, b"copy")
        if when == "before":
            await drive.remove_directory(ROOT_INODE, b"d")
        else:
            accept_together = drive.accept_together

            async def remove_first(make: Callable[[], list[Operation]]) -> None:
                await drive.remove_directory(ROOT_INODE, b"d")
                await accept_together(make)

            monkeypatch.setattr(drive, "accept_together", remove_first)
        with pytest.raises((NoEntryError, StaleError)):
            await clone.perform(replace=False)
        assert not drive.ledger.has_diverged
        await make_file(drive, b"after")
        before = await tree(drive)
    async with opened(tmp_path / "cache", upstream) as drive:
        assert await tree(drive) == before


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_conflict_copy_goes_into_the_root_if_its_folder_is_removed_meanwhile(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    folder = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)).inode
    await make_file(drive, b"f", b"content")
    await drive.sync()
    if is_held:
        drive.hold(folder)
    accept_together = drive.accept_together

    async def remove_first(make: Callable[[], list[Operation]]) -> None:
        monkeypatch.setattr(drive, "accept_together", accept_together)
        await drive.remove_directory(ROOT_INODE, b"d")
        await accept_together(make)

    monkeypatch.setattr(drive, "accept_together", remove_first)
    source = drive.lookup(ROOT_INODE, b"f").inode
    await make_conflict_copy(drive, source, drive.past.head, folder, b"g")
    (copy,) = [name for name in await tree(drive) if name.startswith(b"/g (conflict")]
    assert await content_of(drive, copy[1:]) == b"content"
