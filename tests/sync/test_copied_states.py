"""A copied state (a restored home, a cloned machine): both go on, and what either wrote stays."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from stat import S_IFDIR

import pytest

from backend.errors import FencedError, ReadOnlyError
from backend.failpoints import Failpoints
from backend.system import Environment
from cache.drive import Drive
from cache.namespace.operations import DEVICE_SHIFT, ROOT_INODE
from cache.services.devices import Devices
from tests import contents
from tests.contents import KINDS, Kind
from tests.drives import content, content_of, make_file
from tests.memory_hub import Answer, Line
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import (
    COPY,
    KILLED_AT,
    hub,
    kill,
    same_everywhere,
    suppress_killed,
    write,
)

__all__ = ["hub"]

pytestmark = pytest.mark.logs_warnings

ORIGINAL, CLONE = 2, 3
MINE, THEIRS = b"of the clone" * 1000, b"of the original" * 1000


async def begin(hub: Hub) -> None:
    """A device that was copied with something unpublished; each of the two gives the same inode numbers to
    other files then, and the original publishes its own."""
    async with hub.device(1) as first:
        await make_file(first, b"f", b"base")
        await first.sync()
    async with hub.device(ORIGINAL, crash=True) as original:
        await make_file(original, b"before", b"published before")
        await original.sync()
        await make_file(original, b"both", b"in both")
        await original.ledger.journal.sync()
    shutil.copytree(hub.folder / str(ORIGINAL), hub.folder / str(CLONE))
    line = Line()
    line.cut()
    async with hub.device(CLONE, line=line, crash=True) as clone:
        await change(clone, MINE)
        await clone.ledger.journal.sync()
    async with hub.device(ORIGINAL) as original:
        await change(original, THEIRS)
        await original.sync()


async def change(drive: Drive, text: bytes) -> None:
    """Names that both make, with contents of one of them."""
    who = text[:8]
    await write(drive, b"f", text)
    folder = await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)
    await make_file(drive, b"same name", text, folder.inode)
    inner = await drive.make_node(folder.inode, b"inner", S_IFDIR | 0o755, 0, 0, 0)
    await make_file(drive, who, text, inner.inode)
    await drive.rename(ROOT_INODE, b"before", inner.inode, b"moved by " + who)
    await drive.link(drive.lookup(inner.inode, who).inode, ROOT_INODE, b"link of " + who)


async def go_on(hub: Hub) -> None:
    """The clone publishes all that it had, as another device; the original has that, too."""
    async with hub.device(CLONE) as clone, hub.device(ORIGINAL) as original:
        assert (clone.ledger.namespace.device, original.ledger.namespace.device) == (3, 2)
        await same_everywhere(hub, clone, original)
        await has_all(clone)
        await has_all(original)
        made = await make_file(clone, b"later")
        assert made.inode >> DEVICE_SHIFT == 3


async def has_all(drive: Drive) -> None:
    assert await content_of(drive, b"f") == THEIRS
    folder = drive.lookup(ROOT_INODE, b"d").inode
    assert await content_of(drive, b"same name", folder) == THEIRS
    entries = [entry for at in (ROOT_INODE, folder) for entry in drive.entries(at, 0, 100)]
    copies = [entry for entry in entries if COPY in entry.name and b"both" not in entry.name]
    assert [await content(drive, entry.attributes.inode) for entry in copies] == [MINE, MINE]
    assert copies[1].attributes.inode >> DEVICE_SHIFT == 3
    inner = drive.lookup(folder, b"inner").inode
    for text in (MINE, THEIRS):
        assert await content_of(drive, text[:8], inner) == text
        assert await content_of(drive, b"link of " + text[:8]) == text
    assert await content_of(drive, b"moved by " + THEIRS[:8], inner) == b"published before"
    assert await content_of(drive, b"both") == b"in both"


@pytest.mark.parametrize(
    ("name", "skip"),
    [("enrolment.kept", 0), ("enrolment.added", 0), ("enrolment.became", 0), *KILLED_AT],
)
async def test_a_copied_state_that_is_killed_on_its_way_goes_on_as_another_device(
    hub: Hub, name: str, skip: int
) -> None:
    await begin(hub)
    failpoints = Failpoints()
    failpoints.arm(name, kill, skip)
    with suppress_killed():
        async with hub.device(CLONE, crash=True, environment=Environment(failpoints=failpoints)) as clone:
            await clone.sync()
    await go_on(hub)


@pytest.mark.parametrize("name", ["enrolment.added", "rebase.journaled", "rebase.synced", "ledger.saved"])
async def test_one_that_is_killed_again_and_again_while_the_original_publishes_goes_on(
    hub: Hub, name: str
) -> None:
    await begin(hub)
    for number in range(3):
        failpoints = Failpoints()
        failpoints.arm(name, kill, 0)
        with suppress_killed():
            async with hub.device(CLONE, crash=True, environment=Environment(failpoints=failpoints)):
                pass
        async with hub.device(ORIGINAL) as original:
            await make_file(original, b"more %d" % number, b"m" * 5000)
            await original.sync()
    await go_on(hub)
    assert added(hub) == [1, 2, 3, 4]  # the last one is that of a look from outside


def added(hub: Hub) -> list[int]:
    """The devices of the first commits of each."""
    return [commit.device for commit, _ in hub.upstream.commits if commit.sequence == 1]


@pytest.mark.parametrize("kind", KINDS)
async def test_content_of_any_kind_goes_with_its_file(hub: Hub, kind: Kind) -> None:
    """Several writes of a file, some in the cut that was not published, others after it."""
    await begin(hub)
    mine, more = contents.content(kind, 90_000, 1), contents.content(kind, 70_000, 2)
    line = Line()
    line.cut()
    async with hub.device(CLONE, line=line, crash=True) as clone:
        made = await make_file(clone, b"mine", mine)
        clone.ledger.cut([made.inode])
        await clone.write(made.inode, 40_000, more)
        await clone.ledger.journal.sync()
    await go_on(hub)
    async with hub.device(1) as first:
        expected = mine[:40_000] + more + mine[110_000:]
        assert await content_of(first, b"mine") == expected


async def test_one_that_runs_is_fenced_and_goes_on_when_it_is_mounted_again(hub: Hub) -> None:
    await begin(hub)
    line = Line()
    line.cut()
    async with hub.device(CLONE, line=line, crash=True) as clone:
        line.mend()
        with pytest.raises(FencedError, match="another copy of this machine's state"):
            await clone.publisher.follow()
    await go_on(hub)


async def test_who_only_reads_shows_what_the_machine_has(hub: Hub) -> None:
    await begin(hub)
    count = len(hub.upstream.commits)
    async with hub.device(CLONE, read_only=True) as clone:
        assert await content_of(clone, b"f") == MINE
        assert any("as this machine has seen it" in notice for notice in clone.notices)
        with pytest.raises(FencedError, match="another copy of this machine's state"):
            await clone.publisher.follow()
        assert await content_of(clone, b"f") == MINE
    assert len(hub.upstream.commits) == count
    await go_on(hub)


@pytest.mark.parametrize("has_reader", [False, True])
async def test_one_that_was_killed_behind_its_rebase_gives_no_numbers_of_the_original(
    hub: Hub, *, has_reader: bool
) -> None:
    """The namespace on the disk is of the device that it was. What others than the original publish then
    makes new files of its changes."""
    async with hub.device(1) as first:
        await make_file(first, b"g", b"base")
        await first.sync()
    await begin(hub)
    await write_away(hub, CLONE, b"g", MINE)
    await write_away(hub, ORIGINAL, b"precious", THEIRS)
    await die(hub, "rebase.synced")
    async with hub.device(1) as first:
        await write(first, b"g", b"of the first")
        await first.sync()
    if has_reader:
        async with hub.device(CLONE, read_only=True) as clone:
            assert await content_of(clone, b"g") == MINE
    async with hub.device(CLONE) as clone:
        await clone.sync()
    async with hub.device(ORIGINAL) as original:
        await original.sync()
        assert await content_of(original, b"precious") == THEIRS
        assert await content_of(original, b"g") == b"of the first"
        (copy,) = [each for each in original.entries(ROOT_INODE, 0, 100) if each.name.startswith(b"g" + COPY)]
        assert await content(original, copy.attributes.inode) == MINE
        assert copy.attributes.inode >> DEVICE_SHIFT == 3


async def write_away(hub: Hub, number: int, name: bytes, text: bytes) -> None:
    """Without the hub, into a file that is made if there is none."""
    line = Line()
    line.cut()
    async with hub.device(number, line=line, crash=True) as drive:
        if name not in {entry.name for entry in drive.entries(ROOT_INODE, 0, 100)}:
            await make_file(drive, name)
        await write(drive, name, text)
        await drive.ledger.journal.sync()


async def die(hub: Hub, name: str) -> None:
    """The clone opens, and is killed there."""
    failpoints = Failpoints()
    failpoints.arm(name, kill, 0)
    with suppress_killed():
        async with hub.device(CLONE, crash=True, environment=Environment(failpoints=failpoints)):
            raise AssertionError(name)


async def test_one_whose_namespace_is_lost_goes_on_from_a_snapshot(hub: Hub) -> None:
    async with hub.device(1) as first:
        await make_file(first, b"g", b"base")
        await first.sync()
        await first.snapshots.make()
    await begin(hub)
    for file in (hub.folder / str(CLONE)).glob("namespace.db*"):
        file.unlink()
    await go_on(hub)


async def test_a_copy_of_a_device_that_was_revoked_is_no_new_device(hub: Hub) -> None:
    await begin(hub)
    async with hub.device(1) as first:
        await Devices(first).revoke(ORIGINAL)
    count = len(hub.upstream.commits)
    for _ in range(2):
        with pytest.raises(ReadOnlyError, match="was revoked"):
            async with hub.device(CLONE):
                pass
    assert len(hub.upstream.commits) == count
    async with hub.device(CLONE, read_only=True) as clone:
        assert await content_of(clone, b"f") == MINE


async def test_one_whose_line_is_cut_on_its_way_is_opened_away_as_it_was(hub: Hub) -> None:
    await begin(hub)
    line = CutLine(answers=5)
    async with hub.device(CLONE, line=line, crash=True) as clone:
        assert clone.contact.is_lost
        assert clone.ledger.namespace.device == ORIGINAL
        assert await content_of(clone, b"f") == MINE
    await go_on(hub)


class CutLine(Line):
    """Is cut after so many answers."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._left = answers

    async def call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        if not self._left:
            self.cut()
        self._left -= 1
        return await super().call(call)
