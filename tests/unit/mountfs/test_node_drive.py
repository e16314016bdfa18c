"""A drive by kernel nodes, without a kernel: another device changes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
import trio

from backend.errors import NoSpaceError
from backend.system import THIS_MACHINE
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import NoEntryError, StaleError
from cache.namespace import paths
from cache.namespace.operations import ROOT_INODE
from cache.notices import Notices
from cache.rebase import COPY_OF, decode_mark
from cache.sync import AttributesChanged, Change, NameChanged
from mountfs.node_drive import NodeDrive
from mountfs.open_folders import OpenFolders
from tests.drives import make_file, tree
from tests.sync.drives import Hub


async def ignore(changes: Sequence[Change]) -> None:
    """There is no kernel."""


@asynccontextmanager
async def two_devices(
    folder: Path, folders: OpenFolders | None = None
) -> AsyncIterator[tuple[Drive, Drive, NodeDrive]]:
    """A drive, another device of it, and the kernel nodes of the first. `folders`: those that
    are being listed."""
    hub = Hub(folder)
    async with hub.device(1) as drive, hub.device(2) as other:
        nodes = NodeDrive(drive)
        nodes.watching(OpenFolders() if folders is None else folders, ignore)
        yield drive, other, nodes


async def share(maker: Drive, follower: Drive, name: bytes, data: bytes) -> None:
    """A new file in the root that both devices have."""
    await make_file(maker, name, data)
    await publish(maker, follower)


async def publish(maker: Drive, follower: Drive) -> None:
    """What one device has changed, the other has."""
    await maker.sync()
    await follower.publisher.follow()


def held(nodes: NodeDrive, name: bytes, folder: int = ROOT_INODE) -> int:
    """The node of that name, as the kernel holds it."""
    node = nodes.lookup(folder, name).inode
    nodes.hold(node)
    return node


async def removed_by_others(drive: Drive, other: Drive, nodes: NodeDrive, name: bytes) -> int:
    """The node of a file in `d` that the kernel holds and the other device has removed, which is not
    published yet."""
    theirs = (await other.make_node(ROOT_INODE, b"d", 0o40755, 0, 0, 0)).inode
    await make_file(other, name, b"base", theirs)
    await publish(other, drive)
    node = held(nodes, name, held(nodes, b"d"))
    await other.unlink(theirs, name)
    return node


async def copy_in(drive: Drive) -> bytes:
    """The path of the one conflict copy that there is."""
    (copy,) = (name for name in await tree(drive) if b"conflict" in name)
    return copy


async def overwrite(drive: Drive, name: bytes, data: bytes) -> None:
    inode = drive.lookup(ROOT_INODE, name).inode
    await drive.set_attributes(inode, AttributeChange(size=0))
    await drive.write(inode, 0, data)
    await drive.settle(inode)
    await drive.sync()


async def test_nobody_sees_a_copy_by_another_node_than_that_of_who_writes_it(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as (drive, other, nodes), trio.open_nursery() as nursery:
        seen: list[int] = []

        async def look(changes: Sequence[Change]) -> None:
            names = [change.name for change in changes if isinstance(change, NameChanged)]
            copies = [name for name in names if b"conflict" in name]
            seen.extend(nodes.lookup(ROOT_INODE, name).inode for name in copies)

        await nursery.start(drive.changes.serve, "a test", look)
        await share(other, drive, b"f", b"base")
        node = held(nodes, b"f")
        await overwrite(other, b"f", b"theirs")
        await drive.publisher.follow()
        assert bytes(await nodes.read(node, 0, 100)) == b"base"
        with pytest.raises(StaleError):
            nodes.hold(node)
        assert nodes.lookup(ROOT_INODE, b"f").inode != node
        await nodes.write(node, 4, b" and ours")
        assert bytes(await nodes.read(node, 0, 100)) == b"base and ours"
        assert seen == [node]
        nursery.cancel_scope.cancel()


async def test_a_commit_that_a_descriptor_shows_is_not_dropped(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as (drive, other, nodes):
        await share(other, drive, b"f", b"base")
        shown = drive.ledger.head.number
        node = held(nodes, b"f")
        for number in range(3):
            await overwrite(other, b"f", b"%d" % number)
        await drive.publisher.follow()
        late = drive.now() + 10**19 // 20
        gaps = drive.retention.gaps(now_ns=late)
        assert gaps
        assert not any(low < shown < high for low, high in gaps)
        nodes.release(node)
        assert any(low < shown < high for low, high in drive.retention.gaps(now_ns=late))


async def test_a_folder_that_both_made_is_one(tmp_path: Path) -> None:
    """Who works in it here goes on in the published one."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        made = await nodes.make_node(ROOT_INODE, b"d", 0o40755, 0, 0, 0)
        nodes.hold(made.inode)
        theirs = await other.make_node(ROOT_INODE, b"d", 0o40755, 0, 0, 0)
        await make_file(other, b"x", b"x", theirs.inode)
        await publish(other, drive)
        assert nodes.lookup(made.inode, b"x").size == 1
        assert nodes.lookup(ROOT_INODE, b"d").inode == made.inode
        with pytest.raises(NoEntryError):
            nodes.lookup(made.inode, b"y")
        nodes.release(made.inode)
        assert nodes.lookup(ROOT_INODE, b"d").inode == theirs.inode


async def test_a_listing_of_a_folder_that_others_removed_holds_up_nothing(tmp_path: Path) -> None:
    """Whether it began before that or after."""
    folders = OpenFolders()
    async with two_devices(tmp_path, folders) as (drive, other, nodes):
        theirs = (await other.make_node(ROOT_INODE, b"d", 0o40755, 0, 0, 0)).inode
        await make_file(other, b"x", b"x", theirs)
        await publish(other, drive)
        node = nodes.lookup(ROOT_INODE, b"d").inode
        early, late = (folders[folders.open(node, nodes.next_cookie(node))] for _ in range(2))
        nodes.hold(node)
        early.at = 0
        await other.unlink(theirs, b"x")
        await other.remove_directory(ROOT_INODE, b"d")
        await other.sync()
        for name in (b"f", b"g"):
            await share(other, drive, name, b"later")
            assert nodes.lookup(ROOT_INODE, name).size == len(b"later")
            late.at = 0


async def test_what_is_written_on_in_a_folder_that_others_removed_is_in_the_root(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as (drive, other, nodes):
        theirs = (await other.make_node(ROOT_INODE, b"d", 0o40755, 0, 0, 0)).inode
        await make_file(other, b"x", b"base", theirs)
        await publish(other, drive)
        folder = held(nodes, b"d")
        node = held(nodes, b"x", folder)
        await other.unlink(theirs, b"x")
        await other.remove_directory(ROOT_INODE, b"d")
        await other.sync()
        await share(other, drive, b"later", b"")
        await nodes.write(node, 4, b" and ours")
        assert (await copy_in(drive)).startswith(b"/x (conflict")
        assert bytes(await nodes.read(node, 0, 100)) == b"base and ours"


@pytest.mark.parametrize("gone", [False, True])
async def test_people_are_told_of_a_copy_that_a_program_wrote_on(tmp_path: Path, gone: bool) -> None:
    """Of the file it is, also after a remount; not of who only has it open, nor of each write."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        node = await removed_by_others(drive, other, nodes, b"x y")
        if gone:
            await other.remove_directory(ROOT_INODE, b"d")
        await other.sync()
        await share(other, drive, b"later", b"")
        assert bytes(await nodes.read(node, 0, 100)) == b"base"
        assert not drive.kept_notices()
        for offset in (4, 5):
            await nodes.write(node, offset, b"!")
        (notice,) = drive.kept_notices()
        assert notice.path == ("x%20y" if gone else "d/x%20y")
        assert "that is a copy" in notice.text
        kept = Notices(tmp_path / "1", THIS_MACHINE)
        assert list(kept()) == [notice]


@pytest.mark.parametrize("error", [NoSpaceError("full"), apsw.IOError("no")])
async def test_a_copy_that_is_there_is_written_on_where_the_namespace_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The notice names it without its folder."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(paths, "folder_path", refuse)
    async with two_devices(tmp_path) as (drive, other, nodes):
        node = await removed_by_others(drive, other, nodes, b"x")
        await other.sync()
        await share(other, drive, b"later", b"")
        await nodes.write(node, 4, b"!")
        (notice,) = drive.kept_notices()
        assert notice.path == "x"
        assert bytes(await nodes.read(node, 0, 100)) == b"base!"


async def rename(nodes: NodeDrive, name: bytes, to: bytes, *, exchange: bool = False) -> None:
    await nodes.rename(ROOT_INODE, name, ROOT_INODE, to, no_replace=False, exchange=exchange, whiteout=None)


@pytest.mark.parametrize("exchange", [False, True])
async def test_a_copy_of_a_file_that_was_renamed_here_has_its_new_name(
    tmp_path: Path, exchange: bool
) -> None:
    """As of a log that a program writes on in while it is rotated."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        for name in (b"app.log", b"app.log.1"):
            await make_file(drive, name, name)
            nodes.hold(nodes.lookup(ROOT_INODE, name).inode)
        node = nodes.lookup(ROOT_INODE, b"app.log").inode
        await rename(nodes, b"app.log", b"app.log.1", exchange=exchange)
        await publish(drive, other)
        await overwrite(other, b"app.log.1", b"theirs")
        await drive.publisher.follow()
        await nodes.write(node, 0, b"ours")
        copy = await copy_in(drive)
        mark = decode_mark(drive.get_xattr(drive.lookup(ROOT_INODE, copy[1:]).inode, COPY_OF))
        assert mark is not None
        assert mark.of == b"app.log.1"


@pytest.mark.parametrize("how", ["unlink", "replace"])
async def test_a_copy_has_a_name_that_its_file_still_had(tmp_path: Path, how: str) -> None:
    async with two_devices(tmp_path) as (drive, other, nodes):
        for name in (b"first", b"another"):
            await make_file(drive, name, name)
        node = held(nodes, b"first")
        await nodes.link(node, ROOT_INODE, b"second")
        if how == "unlink":
            await nodes.unlink(ROOT_INODE, b"first")
        else:
            await rename(nodes, b"another", b"first")
        await publish(drive, other)
        await overwrite(other, b"second", b"theirs")
        await drive.publisher.follow()
        await nodes.write(node, 0, b"ours")
        assert (await copy_in(drive)).startswith(b"/second (")


async def test_what_has_lost_its_only_name_here_is_written_on_all_the_same(tmp_path: Path) -> None:
    """Others changed the file meanwhile."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        await share(drive, other, b"f", b"base")
        node = held(nodes, b"f")
        await nodes.unlink(ROOT_INODE, b"f")
        await overwrite(other, b"f", b"theirs")
        await drive.publisher.follow()
        assert drive.lookup(ROOT_INODE, b"f").size == len(b"theirs")
        await nodes.write(node, 4, b" and ours")
        assert bytes(await nodes.read(node, 0, 100)) == b"base and ours"


@pytest.mark.parametrize("theirs", ["overwrite", "unlink"])
async def test_what_was_written_to_a_file_without_a_name_stays_for_who_has_it_open(
    tmp_path: Path, theirs: str
) -> None:
    """As in a temporary file: nobody else has what was not published, and nobody else is to see it."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        await share(drive, other, b"f", b"base")
        node = held(nodes, b"f")
        await nodes.write(node, 4, b" and ours")
        await nodes.unlink(ROOT_INODE, b"f")
        if theirs == "overwrite":
            await overwrite(other, b"f", b"theirs")
        else:
            await other.unlink(ROOT_INODE, b"f")
            await other.sync()
            await make_file(other, b"later")
            await other.sync()
        await drive.publisher.follow()
        assert bytes(await nodes.read(node, 0, 100)) == b"base and ours"
        await nodes.write(node, 0, b"BASE")
        await drive.sync()
        assert bytes(await nodes.read(node, 0, 100)) == b"BASE and ours"
        assert not [name for name in await tree(drive) if b"conflict" in name]
        nodes.release(node)
        drive.delete_unused()
        assert not drive.ledger.namespace.orphans()


async def test_a_file_with_two_names_that_are_renamed_to_each_other_keeps_both(tmp_path: Path) -> None:
    """rename(2) does nothing then: the kernel is still to hear of both."""
    hub = Hub(tmp_path)
    async with hub.device(1) as drive:
        nodes = NodeDrive(drive)
        await make_file(drive, b"f", b"data")
        node = held(nodes, b"f")
        await nodes.link(node, ROOT_INODE, b"g")
        await rename(nodes, b"f", b"g")
        told = nodes.told([AttributesChanged(node)])
        assert {*told} == {AttributesChanged(node), *(NameChanged(ROOT_INODE, name) for name in (b"f", b"g"))}


@pytest.mark.parametrize(
    ("folder", "mode", "is_last"),
    [(b"plain", 0o644, False), (b"plain", 0o755, True), (b"conf.d", 0o644, True), (b".hidden", 0o644, True)],
)
async def test_nothing_loads_or_runs_a_copy_of_what_is_written_on(
    tmp_path: Path, folder: bytes, mode: int, is_last: bool
) -> None:
    """Its suffix comes last there, as in copies that a rebase makes."""
    async with two_devices(tmp_path) as (drive, other, nodes):
        await other.make_node(ROOT_INODE, b"beside", 0o40755, 0, 0, 0)
        theirs = (await other.make_node(ROOT_INODE, folder, 0o40755, 0, 0, 0)).inode
        made = await make_file(other, b"a.conf", b"base", theirs)
        await other.set_attributes(made.inode, AttributeChange(mode=mode))
        await publish(other, drive)
        node = held(nodes, b"a.conf", nodes.lookup(ROOT_INODE, folder).inode)
        await other.write(made.inode, 0, b"theirs")
        await other.settle(made.inode)
        await publish(other, drive)
        await nodes.write(node, 0, b"ours")
        copy = await copy_in(drive)
        assert copy.startswith(b"/" + folder + b"/")
        assert copy.endswith(b")" if is_last else b").conf")
