"""Conflict copies as people meet them: listed, said, and decided on, on whole drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from stat import S_IFDIR
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import apsw
import pytest
import trio

from backend.errors import NoSpaceError
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import DirectoryError, FileSystemError, InputOutputError, InvalidArgumentError, NoEntryError
from cache.messages import CONFLICTS, CONFLICTS_RESOLVE, NOTICES
from cache.namespace import paths
from cache.namespace.operations import ROOT_INODE
from cache.rebase import COPY_OF, Mark, decode_mark, encode_mark
from cache.rebase.quiet_names import MOST_COPIES
from cache.services import services_of
from cache.sync import Change, NameChanged
from tests.drives import content_of, make_file
from tests.sync.drives import Hub

MINE, THEIRS = b"of the second", b"of the first"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


async def write(drive: Drive, name: bytes, data: bytes) -> None:
    inode = drive.lookup(ROOT_INODE, name).inode
    await drive.set_attributes(inode, AttributeChange(size=0))
    await drive.write(inode, 0, data)
    await drive.settle(inode)


async def call(drive: Drive, name: str, **question: object) -> Mapping[str, Any]:
    return await services_of(drive)[name](question)


async def refuse_to_sync(*_: object, **__: object) -> None:
    await trio.lowlevel.checkpoint()
    raise InputOutputError("the disk does not sync just now")


@pytest.mark.parametrize("is_synced_later", [True, False])
async def test_what_a_rebase_decided_is_said_where_the_disk_refuses_its_sync(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, is_synced_later: bool
) -> None:
    """Once, also where this mount never syncs it: the state has changed, and no later rebase knows of it."""
    async with hub.device(1) as first:
        async with hub.device(2) as second:
            await make_file(first, b"f", b"base")
            await first.sync()
            await second.publisher.follow()
            await write(first, b"f", THEIRS)
            await write(second, b"f", MINE)
            with monkeypatch.context() as patch:
                patch.setattr(second.ledger.journal, "sync", refuse_to_sync)
                await first.sync()
                with pytest.raises(InputOutputError):
                    await second.publisher.follow()
                assert second.ledger.rebase_synced is not None
            if is_synced_later:
                await second.publisher.follow()
        async with hub.device(2) as second:
            (notice,) = (await call(second, NOTICES.name))["notices"]
            assert (notice["path"], notice["commit"], notice["kind"]) == ("f", 3, "conflict")


@pytest.mark.logs_warnings
@pytest.mark.parametrize("error", [NoSpaceError("full"), apsw.IOError("no")])
async def test_what_a_rebase_decided_is_said_where_the_namespace_cannot_be_read(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """By the name alone. A disk that refuses a sync may refuse this, too, which ended the mount."""

    def refuse(*_: object) -> None:
        raise error

    async with hub.device(1) as first, hub.device(2) as second:
        folder = (await first.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make_file(first, b"f", b"base", folder)
        await first.sync()
        await second.publisher.follow()
        for drive, data in ((first, THEIRS), (second, MINE)):
            inode = drive.lookup(folder, b"f").inode
            await drive.set_attributes(inode, AttributeChange(size=0))
            await drive.write(inode, 0, data)
            await drive.settle(inode)
        with monkeypatch.context() as patch:
            patch.setattr(paths, "folder_path", refuse)
            patch.setattr(second.ledger.journal, "sync", refuse_to_sync)
            await first.sync()
            with pytest.raises(InputOutputError):
                await second.publisher.follow()
        (notice,) = (await call(second, NOTICES.name))["notices"]
        assert (notice["path"], notice["kind"]) == ("f", "conflict")


async def resolve(drive: Drive, path: str, keep: str) -> None:
    await call(drive, CONFLICTS_RESOLVE.name, path=path, keep=keep)


def names(drive: Drive) -> set[bytes]:
    return {entry.name for entry in drive.entries(ROOT_INODE, 0, 1000)}


async def disagree(first: Drive, second: Drive, *files: bytes) -> None:
    """Both change the files, and the second one comes second."""
    for name in files:
        await make_file(first, name, b"base")
    await first.sync()
    await second.publisher.follow()
    for name in files:
        await write(first, name, THEIRS)
        await write(second, name, MINE)
    await first.sync()
    await second.sync()
    await first.publisher.follow()


async def test_every_device_lists_the_copy_and_the_one_that_made_it_says_so(hub: Hub) -> None:
    async with hub.device(1) as first:
        async with hub.device(2) as second:
            await disagree(first, second, b"f")
            for drive in (first, second):
                (copy,) = (await call(drive, CONFLICTS.name))["copies"]
                assert (copy["of"], copy["by"], copy["base"]) == ("f", "dev2", 3)
                assert copy["path"].startswith("f%20%28conflict%20")
            assert not first.kept_notices()
        async with hub.device(2) as second:
            (notice,) = (await call(second, NOTICES.name))["notices"]
            assert (notice["path"], notice["commit"], notice["kind"]) == ("f", 3, "conflict")
            assert (await second.status()).notices == 1


@pytest.mark.parametrize(
    ("keep", "content", "copies"), [("mine", MINE, 0), ("theirs", THEIRS, 0), ("both", THEIRS, 1)]
)
@pytest.mark.parametrize("by_copy", [True, False])
async def test_a_decision_holds_on_every_device(
    hub: Hub, keep: str, content: bytes, copies: int, by_copy: bool
) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await disagree(first, second, b"f")
        (copy,) = (await call(second, CONFLICTS.name))["copies"]
        await resolve(second, copy["path"] if by_copy else "f", keep)
        assert not second.kept_notices()
        await second.sync()
        await first.publisher.follow()
        for drive in (first, second):
            assert await content_of(drive, b"f") == content
            assert len(names(drive)) == 1 + copies
            assert not (await call(drive, CONFLICTS.name))["copies"]


@pytest.mark.parametrize(
    ("keep", "content", "left"), [("mine", MINE, {b"q", b"q-wal"}), ("theirs", THEIRS, {b"q", b"q-wal"})]
)
async def test_a_database_is_decided_as_one(hub: Hub, keep: str, content: bytes, left: set[bytes]) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await disagree(first, second, b"q", b"q-wal")
        assert len(names(second)) == 4
        await resolve(second, "q-wal", keep)
        assert names(second) == left
        for name in left:
            assert await content_of(second, name) == content


async def test_a_log_of_theirs_does_not_stay_beside_a_database_of_mine(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await disagree(first, second, b"q")
        await make_file(second, b"q-wal", b"of theirs")
        await resolve(second, "q", "mine")
        assert names(second) == {b"q"}


async def test_of_several_copies_one_has_to_be_named(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second, hub.device(3) as third:
        await make_file(first, b"f", b"base")
        await first.sync()
        for drive in (second, third):
            await drive.publisher.follow()
        for drive in (first, second, third):
            await write(drive, b"f", b"of %d" % drive.ledger.namespace.device)
        for drive in (first, second, third):
            await drive.sync()
        with pytest.raises(InvalidArgumentError, match=r"dev2.*dev3"):
            await resolve(third, "f", "mine")


async def test_nothing_is_decided_where_it_cannot_be(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await disagree(first, second, b"f")
        with pytest.raises(NoEntryError):
            await resolve(second, "g", "mine")
        with pytest.raises(InvalidArgumentError):
            await resolve(second, "f", "yours")
        await second.unlink(ROOT_INODE, b"f")
        await second.make_node(ROOT_INODE, b"f", 0o040755, 0, 0, 0)
        before = names(second)
        with pytest.raises(DirectoryError):
            await resolve(second, "f", "mine")
        assert names(second) == before
        assert len((await call(second, CONFLICTS.name))["copies"]) == 1


async def lose(hub: Hub, first: Drive, second: Drive, name: bytes, parent: int = ROOT_INODE) -> None:
    """Both make the file, and the second one comes second."""
    await make_file(first, name, THEIRS, parent)
    await make_file(second, name, MINE, parent)
    await first.sync()
    await second.sync()


async def pinned(*drives: Drive) -> None:
    """The versions of the last drive are pinned, and all know."""
    *others, last = drives
    while not last.retention.pins():
        await trio.sleep(0.05)
    await last.sync()
    for drive in others:
        await drive.publisher.follow()


@pytest.mark.parametrize("name", [b"~$report.doc", b".~lock.report.odt#"])
async def test_of_a_lock_of_an_office_there_is_a_version_and_no_copy(hub: Hub, name: bytes) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await lose(hub, first, second, name)
        await pinned(first, second)
        for drive in (first, second):
            assert names(drive) == {name}
            assert await content_of(drive, name) == THEIRS
            found = await call(drive, CONFLICTS.name)
            assert not found["copies"]
            (version,) = found["versions"]
            assert (unquote_to_bytes(version["of"]), version["by"]) == (name, "dev2")
            assert not drive.ledger.namespace.orphans()
        texts = [notice.text for notice in second.kept_notices()]
        assert any("pinned for thirty days" in text for text in texts)


async def repository(first: Drive, second: Drive) -> int:
    folder = (await first.make_node(ROOT_INODE, b".git", 0o040755, 0, 0, 0)).inode
    folder = (await first.make_node(folder, b"refs", 0o040755, 0, 0, 0)).inode
    await first.sync()
    await second.publisher.follow()
    return folder


@pytest.mark.parametrize(("keep", "content"), [("mine", MINE), ("both", THEIRS)])
async def test_a_version_in_a_repository_is_brought_back(hub: Hub, keep: str, content: bytes) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        folder = await repository(first, second)
        await lose(hub, first, second, b"main", folder)
        await pinned(first, second)
        assert [entry.name for entry in first.entries(folder, 0, 10)] == [b"main"]
        await resolve(first, ".git/refs/main", keep)
        assert await content_of(first, b"main", folder) == content
        copies = (await call(first, CONFLICTS.name))["copies"]
        assert len(copies) == (1 if keep == "both" else 0)
        with pytest.raises(InvalidArgumentError):
            await resolve(second, ".git/refs/main", "theirs")


async def test_a_decision_on_a_version_is_one_change(hub: Hub) -> None:
    """Nobody ever sees the file with the mark of a version, and its notice goes."""
    async with hub.device(1) as first, hub.device(2) as second, trio.open_nursery() as nursery:
        folder = await repository(first, second)
        await lose(hub, first, second, b"main", folder)
        await pinned(first, second)
        assert second.kept_notices()
        seen: list[list[bytes]] = []

        async def look(changes: Sequence[Change]) -> None:
            seen.extend(
                second.xattr_names(second.lookup(folder, b"main").inode)
                for change in changes
                if isinstance(change, NameChanged)
            )

        await nursery.start(second.changes.serve, "a test", look)
        await resolve(second, ".git/refs/main", "mine")
        assert seen == [[]]
        assert not second.kept_notices()
        nursery.cancel_scope.cancel()


async def test_a_kill_at_any_time_keeps_the_version(hub: Hub) -> None:
    """Before it is published, and before it is pinned."""
    async with hub.device(1) as first:
        async with hub.device(2, crash=True) as second:
            folder = await repository(first, second)
            await make_file(first, b"main", THEIRS, folder)
            await make_file(second, b"main", MINE, folder)
            await first.sync()
            await second.publisher.follow()
        async with hub.device(2, crash=True) as second:
            await second.sync()
        async with hub.device(2) as second:
            await pinned(first, second)
            await resolve(second, ".git/refs/main", "mine")
            assert await content_of(second, b"main", folder) == MINE


async def test_content_that_is_written_again_is_a_version_too(hub: Hub) -> None:
    """What was there before was changed on both sides."""
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"~$a", b"base")
        await first.sync()
        await second.publisher.follow()
        await write(first, b"~$a", THEIRS)
        await write(second, b"~$a", MINE)
        await first.sync()
        await second.sync()
        await pinned(first, second)
        await resolve(second, "~$a", "mine")
        assert await content_of(second, b"~$a") == MINE


async def test_after_twenty_copies_of_a_name_there_are_versions(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", b"base")
        for number in range(MOST_COPIES):
            await make_file(first, b"f (conflict 2026-11-28 dev%d)" % number, b"%d" % number)
        await make_file(first, b"g (conflict 2026-11-28 dev1)", b"of another")
        await first.sync()
        await second.publisher.follow()
        before = names(second)
        await write(first, b"f", THEIRS)
        await write(second, b"f", MINE)
        await first.sync()
        await second.sync()
        await pinned(first, second)
        assert names(second) == before
        assert len((await call(first, CONFLICTS.name))["versions"]) == 1


NO_MARKS: Final = [
    b"",
    b"null",
    b"[]",
    b'{"of": "a/b", "base": 1, "by": ""}',
    b'{"of": "..", "base": 1, "by": ""}',
    b'{"of": "", "base": 1, "by": ""}',
    b'{"of": "a", "base": true, "by": ""}',
    b'{"of": "a", "base": 1}',
    b'{"of": "\\u0000", "base": 1, "by": "x"}',
    b'{"of": "\\ud800", "base": 1, "by": "x"}',
    b"[" * 3000,
    b"\xff",
]


@pytest.mark.parametrize("value", NO_MARKS)
async def test_what_people_write_into_the_attribute_is_no_conflict(hub: Hub, value: bytes) -> None:
    async with hub.device(1) as drive:
        made = await make_file(drive, b"f", b"data")
        await drive.set_xattr(made.inode, COPY_OF, value)
        assert decode_mark(value) is None
        assert not (await call(drive, CONFLICTS.name))["copies"]
        with pytest.raises(FileSystemError):
            await resolve(drive, "f", "mine")


@pytest.mark.parametrize("name", [b"a", b"caf\xc3\xa9", b"\xff\xfe", b'"', b"n" * 255])
def test_a_mark_is_read_as_it_was_written(name: bytes) -> None:
    for mark in (Mark(name, 7, b"host"), Mark(name, 7, b"host", b""), Mark(name, 7, b"host", name)):
        assert decode_mark(encode_mark(mark)) == mark
