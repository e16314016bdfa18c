"""Calls by kernel nodes that wait for room while a rebase gives inodes other numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from typing import Final

import pytest
import trio

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.journal import rebasing
from cache.namespace.operations import ROOT_INODE
from cache.sync import Change, rebaser
from mountfs.node_drive import NodeDrive
from mountfs.open_folders import OpenFolders
from tests import contents
from tests.drives import content, content_of, make_file
from tests.sync.drives import SMALL, Hub
from tests.sync.test_rebases_aside import Slow
from tests.sync.test_whole_drives import StillHub, begin, change_here, change_there

OURS: Final = b"of the second" * 1000
MUCH: Final = 7 * SMALL.journal_size // 2
"""So many bytes in the journal let no change in."""
PATIENCE: Final = 60


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Each rebase is made aside."""
    slow = Slow()
    monkeypatch.setattr(rebaser, "STEP", -1)
    monkeypatch.setattr(rebasing, "take_up", slow.take_up)
    yield slow
    slow.let()


async def ignore(changes: Sequence[Change]) -> None:
    """There is no kernel."""


async def prepare(hub: Hub, drive: Drive) -> None:
    """What is to be a conflict copy, and a folder that is to be merged, whose nodes the kernel has."""
    await change_here(drive)
    await drive.set_xattr(drive.lookup(ROOT_INODE, b"f").inode, b"user.ours", b"ours")
    folder = (await drive.make_node(ROOT_INODE, b"m", S_IFDIR | 0o755, 0, 0, 0)).inode
    await make_file(drive, b"old", b"old", folder)
    await drive.make_node(folder, b"sub", S_IFDIR | 0o755, 0, 0, 0)
    async with hub.device(1) as first:
        await first.make_node(ROOT_INODE, b"m", S_IFDIR | 0o755, 0, 0, 0)
        await first.sync()
    await change_there(hub)


def held(nodes: NodeDrive, name: bytes) -> int:
    node = nodes.lookup(ROOT_INODE, name).inode
    nodes.hold(node)
    return node


Call = Callable[[NodeDrive, int, int], Awaitable[object]]
"""With the nodes of the file and the folder."""
Look = Callable[[Drive, int, int], Awaitable[object]]
"""With the inodes of the file's copy and of the published folder."""


async def rename(nodes: NodeDrive, folder: int) -> None:
    await nodes.rename(folder, b"old", folder, b"new", no_replace=False, exchange=False, whiteout=None)


def listed(drive: Drive, folder: int) -> set[bytes]:
    return {entry.name for entry in drive.entries(folder, 0, 100)}


async def xattrs(drive: Drive, file: int, _: int) -> object:
    return {*drive.xattr_names(file)} & {b"user.ours", b"user.a"}


async def inside(drive: Drive, _: int, folder: int) -> object:
    return listed(drive, folder)


async def linked(drive: Drive, file: int, _: int) -> object:
    return drive.lookup(ROOT_INODE, b"ln").inode == file


async def mode(drive: Drive, file: int, _: int) -> object:
    return drive.attributes(file).mode


async def text(drive: Drive, file: int, _: int) -> object:
    return bytes(await content(drive, file))


def make(nodes: NodeDrive, folder: int) -> Awaitable[object]:
    return nodes.make_node(folder, b"made", S_IFREG | 0o644, 0, 0, 0)


CALLS: Final[list[tuple[Call, Look, object]]] = [
    (lambda n, f, m: n.set_xattr(f, b"user.a", b"a"), xattrs, {b"user.ours", b"user.a"}),
    (lambda n, f, m: n.remove_xattr(f, b"user.ours"), xattrs, set()),
    (lambda n, f, m: n.set_attributes(f, AttributeChange(mode=0o600)), mode, S_IFREG | 0o600),
    (lambda n, f, m: n.set_attributes(f, AttributeChange(size=3)), text, OURS[:3]),
    (lambda n, f, m: n.write(f, 0, b"OF"), text, b"OF" + OURS[2:]),
    (lambda n, f, m: n.link(f, ROOT_INODE, b"ln"), linked, True),
    (lambda n, f, m: n.link(f, m, b"ln"), inside, {b"old", b"sub", b"ln"}),
    (lambda n, f, m: make(n, m), inside, {b"old", b"sub", b"made"}),
    (lambda n, f, m: n.symlink(m, b"made", b"to", 0, 0), inside, {b"old", b"sub", b"made"}),
    (lambda n, f, m: n.unlink(m, b"old"), inside, {b"sub"}),
    (lambda n, f, m: n.remove_directory(m, b"sub"), inside, {b"old"}),
    (lambda n, f, m: rename(n, m), inside, {b"new", b"sub"}),
]


@pytest.mark.parametrize(("call", "look", "expected"), CALLS)
async def test_a_call_that_waits_for_room_is_done_on_what_its_node_shows_then(
    tmp_path: Path, slow: Slow, call: Call, look: Look, expected: object
) -> None:
    """Regression: it was done on the published file, or failed in a folder that is no more."""
    hub = Hub(tmp_path, StillHub())
    await begin(hub)
    async with hub.device(2) as drive:
        nodes = NodeDrive(drive)
        nodes.watching(OpenFolders(), ignore)
        await prepare(hub, drive)
        file, folder = held(nodes, b"f"), held(nodes, b"m")
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drive.publisher.follow)
                await slow.begun()
                await make_file(drive, b"much", contents.content("random", MUCH, 1))
                before = drive.ledger.accepted
                nursery.start_soon(call, nodes, file, folder)
                await trio.sleep(0.01)
                assert drive.ledger.accepted == before
                slow.let()
                nursery.start_soon(drive.sync)
        published = drive.lookup(ROOT_INODE, b"f").inode
        assert await content_of(drive, b"f") == b"of the first, 0"
        assert drive.xattr_names(published) == [b"user.ours"]
        (copy,) = [name for name in listed(drive, ROOT_INODE) if b" (conflict" in name]
        inodes = [drive.lookup(ROOT_INODE, name).inode for name in (copy, b"m")]
        assert await look(drive, *inodes) == expected
