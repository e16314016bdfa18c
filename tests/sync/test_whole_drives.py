"""Whole drives on one log: what two devices write at the same time is in both, whatever is killed where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_IFDIR, S_IFREG

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from backend.errors import TransientError
from backend.failpoints import Failpoints
from backend.system import Environment
from backend.upstream import Commit, Head
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.journal.format import MAX_PAYLOAD
from cache.journal.trimming import MUCH_FOLLOWED
from cache.namespace.operations import ROOT_INODE
from cache.sync import Change, ContentChanged, NameChanged, Replaced
from tests import contents
from tests.contents import KINDS, Kind
from tests.drives import content, content_of, make_file, tree
from tests.memory_hub import HubSession, MemoryHub
from tests.sync.drives import SMALL, Hub


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def names(drive: Drive) -> list[bytes]:
    return [entry.name for entry in drive.entries(ROOT_INODE, 0, 1000)]


async def write(drive: Drive, name: bytes, data: bytes) -> None:
    """The whole content of a file that is there."""
    inode = drive.lookup(ROOT_INODE, name).inode
    await drive.set_attributes(inode, AttributeChange(size=0))
    await drive.write(inode, 0, data)
    await drive.settle(inode)


async def same_everywhere(hub: Hub, *drives: Drive) -> dict[bytes, tuple[object, ...]]:
    """Every device, and one that has never been, has the same tree; the tree."""
    for _ in range(2):
        for drive in drives:
            await drive.sync()
            await drive.publisher.follow()
    count = len(hub.upstream.commits)
    for drive in drives:
        await drive.sync()
    assert len(hub.upstream.commits) == count
    async with hub.device(100 + count) as another:
        expected = await tree(another)
    for drive in drives:
        assert await tree(drive) == expected
    return expected


COPY = b" (conflict 20"


async def test_two_devices_write_one_drive(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", b"base")
        await first.sync()
        await second.publisher.follow()
        await make_file(first, b"one", b"1")
        await make_file(second, b"two", b"2")
        await write(first, b"f", b"of the first")
        await write(second, b"f", b"of the second")
        await first.sync()
        await second.sync()
        await same_everywhere(hub, first, second)
        assert await content_of(first, b"f") == b"of the first"
        (copy,) = [name for name in names(first) if COPY in name]
        assert await content_of(first, copy) == b"of the second"
        assert {b"one", b"two"} <= {*names(second)}


@pytest.mark.parametrize("kind", KINDS)
async def test_content_that_is_only_in_the_journal_goes_to_the_copy(hub: Hub, kind: Kind) -> None:
    base, theirs, ours = (
        contents.content(kind, size, seed) for seed, size in ((1, 90_000), (2, 70_000), (3, 80_000))
    )
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", base)
        await first.sync()
        await second.publisher.follow()
        inode = second.lookup(ROOT_INODE, b"f").inode
        await second.write(inode, 10_000, ours)
        await write(first, b"f", theirs)
        await first.sync()
        await second.publisher.follow()
        assert await content_of(second, b"f") == theirs
        (copy,) = [name for name in names(second) if COPY in name]
        assert await content_of(second, copy) == base[:10_000] + ours
        await same_everywhere(hub, first, second)
        assert await content_of(first, copy) == base[:10_000] + ours


async def test_a_file_that_is_written_here_and_renamed_there_keeps_its_content(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        made = await make_file(first, b"f", b"base")
        await first.sync()
        await second.publisher.follow()
        await second.write(made.inode, 4, b" and more")
        await first.rename(ROOT_INODE, b"f", ROOT_INODE, b"g")
        await first.sync()
        await same_everywhere(hub, first, second)
        assert names(first) == [b"g"]
        assert await content(first, made.inode) == b"base and more"


KILLED_AT = [
    ("rebase.followed", 0),
    ("rebase.spooled", 0),
    ("rebase.journaled", 0),
    ("rebase.synced", 0),
    ("journal.appended", 0),
    ("journal.appended", 2),
    ("journal.synced", 0),
    ("journal.segment-started", 0),
    ("journal.segment-started", 2),
    ("ledger.saved", 0),
    ("ledger.cut", 0),
    ("ledger.extents", 0),
    ("ledger.published", 0),
    ("ledger.checkpointed", 0),
    ("namespace.committing", 0),
    ("namespace.committing", 2),
]
"""Failpoints, and how often each is passed before the kill."""


class KilledError(Exception):
    """A device is killed."""


def kill() -> None:
    raise KilledError


async def begin(hub: Hub) -> None:
    """Both devices have the same tree."""
    async with hub.device(1) as first:
        await make_file(first, b"f", b"base")
        await make_file(first, b"g", b"base")
        folder = await first.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)
        await make_file(first, b"x", b"x", folder.inode)
        await first.sync()
    async with hub.device(2):
        pass


async def change_here(drive: Drive) -> None:
    await write(drive, b"f", b"of the second" * 1000)
    await drive.rename(ROOT_INODE, b"g", ROOT_INODE, b"h")
    await make_file(drive, b"new", b"new here", drive.lookup(ROOT_INODE, b"d").inode)
    await drive.ledger.journal.sync()


async def change_there(hub: Hub, number: int = 0) -> None:
    async with hub.device(1) as first:
        await write(first, b"f", b"of the first, %d" % number)
        await make_file(first, b"there%d" % number, b"there")
        if number == 0:
            folder = first.lookup(ROOT_INODE, b"d").inode
            await first.unlink(folder, b"x")
            await first.remove_directory(ROOT_INODE, b"d")
        await first.sync()


async def go_on(hub: Hub) -> None:
    """The second device has all that it had, and all that the first published; and a third has the same."""
    async with hub.device(2) as second:
        await second.sync()
        assert {b"h", b"d", b"f", b"there0"} <= {*names(second)}
        assert await content_of(second, b"new", second.lookup(ROOT_INODE, b"d").inode) == b"new here"
        copies = [name for name in names(second) if COPY in name]
        assert [await content_of(second, name) for name in copies] == [b"of the second" * 1000]
        await same_everywhere(hub, second)


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("name", "skip"), KILLED_AT)
async def test_a_device_that_is_killed_in_a_rebase_of_its_opening_goes_on(
    hub: Hub, name: str, skip: int
) -> None:
    await begin(hub)
    async with hub.device(2, crash=True) as second:
        await change_here(second)
    await change_there(hub)
    await die(hub, name, skip)
    await go_on(hub)


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("name", "skip"), KILLED_AT)
async def test_a_device_that_is_killed_in_a_rebase_while_it_runs_goes_on(
    hub: Hub, name: str, skip: int
) -> None:
    await begin(hub)
    await die_running(hub, name, skip)
    await go_on(hub)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("name", [name for name, skip in KILLED_AT if not skip])
async def test_a_device_that_is_killed_again_and_again_while_others_publish_goes_on(
    hub: Hub, name: str
) -> None:
    await begin(hub)
    async with hub.device(2, crash=True) as second:
        await change_here(second)
    for number in range(4):
        await change_there(hub, number)
        await die(hub, name, number % 3)
    await go_on(hub)


async def die(hub: Hub, name: str, skip: int) -> None:
    """The second device opens, publishes, and is killed on the way, if it comes there."""
    failpoints = Failpoints()
    failpoints.arm(name, kill, skip)
    with suppress_killed():
        async with hub.device(2, crash=True, environment=Environment(failpoints=failpoints)) as second:
            await second.sync()


async def die_running(hub: Hub, name: str, skip: int) -> None:
    """The second device runs when others publish, and is killed on the way to that."""
    failpoints = Failpoints()
    with suppress_killed():
        async with hub.device(2, crash=True, environment=Environment(failpoints=failpoints)) as second:
            await change_here(second)
            second.tick(-1)
            failpoints.arm(name, kill, skip)
            await change_there(hub)
            await second.sync()


@contextmanager
def suppress_killed() -> Iterator[None]:
    """What the kill raises, in whatever task."""
    try:
        yield
    except KilledError:
        pass
    except BaseExceptionGroup as group:
        _, others = group.split(KilledError)
        if others is not None:
            raise others from None


@pytest.mark.logs_warnings
async def test_a_copy_whose_content_the_journal_let_go_of_is_no_obstacle(hub: Hub) -> None:
    """The record of the rebase stays in the journal with newer changes, what it moved does not."""
    await begin(hub)
    async with hub.device(2, crash=True) as second:
        await change_here(second)
    await change_there(hub)
    async with hub.device(2, crash=True) as second:
        made = await second.make_node(ROOT_INODE, b"open", S_IFREG | 0o644, 0, 0, 0)
        await second.write(made.inode, 0, b"not published")
        await second.publisher.publish(everything=False)
        assert second.ledger.unpublished
        await second.ledger.journal.sync()
    async with hub.device(2) as second:
        assert await content_of(second, b"open") == b"not published"
    await go_on(hub)


@pytest.mark.logs_warnings
async def test_a_commit_whose_answer_was_lost_is_no_change_by_others(hub: Hub) -> None:
    await begin(hub)
    async with hub.device(2) as second:
        await change_here(second)
        hub.upstream.fail_after_append = True
        with pytest.raises(TransientError):
            await second.sync()
        await change_there(hub, 1)
        await same_everywhere(hub, second)
        assert not [name for name in names(second) if COPY in name]
        assert await content_of(second, b"f") == b"of the first, 1"


async def test_the_namespace_is_not_saved_before_the_rebase_is_on_the_disk(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave it ahead of a journal that says nothing of the rebase."""
    await begin(hub)
    async with hub.device(2) as second:
        await change_here(second)
        second.tick(-1)
        ledger, saved = second.ledger, []
        sync, before = ledger.journal.sync, ledger.namespace.journal_position()

        async def watched() -> None:
            ledger.save()
            saved.append(ledger.namespace.journal_position())
            await sync()

        monkeypatch.setattr(ledger.journal, "sync", watched)
        await change_there(hub)
        await second.publisher.follow()
        assert saved[:1] == [before]
        ledger.save()
        assert ledger.namespace.journal_position() > before


class BusyUpstream(MemoryHub):
    """Others are quicker so many times."""

    quicker = 0
    hub: Hub

    async def append(self, commit: Commit, expected: Head) -> Head:
        if self.quicker and commit.device == 2:
            self.quicker -= 1
            await change_there(self.hub, self.quicker)
        return await super().append(commit, expected)


async def test_a_head_that_moves_ten_times_in_a_row_is_caught_up_with(tmp_path: Path) -> None:
    upstream = BusyUpstream()
    hub = upstream.hub = Hub(tmp_path, upstream)
    await begin(hub)
    async with hub.device(2) as second:
        await change_here(second)
        upstream.quicker = 10
        await second.sync()
        assert upstream.quicker == 0
        copies = [name for name in names(second) if COPY in name]
        assert [await content_of(second, name) for name in copies] == [b"of the second" * 1000]
        await same_everywhere(hub, second)


async def test_a_new_device_that_is_killed_before_it_wrote_its_names_down_loses_nothing(hub: Hub) -> None:
    await begin(hub)
    async with hub.device(3, crash=True) as third:
        await make_file(third, b"of the third", b"3")
        await third.ledger.journal.sync()
    await change_there(hub)
    async with hub.device(3) as third:
        await third.sync()
        assert await content_of(third, b"of the third") == b"3"
        await same_everywhere(hub, third)


@pytest.mark.logs_warnings
async def test_a_file_that_is_deleted_before_its_content_is_stored_leaves_nothing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its content stayed in the journal until the device was opened again."""

    async def away(_session: HubSession) -> None:
        raise TransientError("away")

    await begin(hub)
    async with hub.device(2) as second:
        inode = second.lookup(ROOT_INODE, b"g").inode
        await second.write(inode, 0, b"to be deleted" * 1000)
        with monkeypatch.context() as patch:
            patch.setattr(HubSession, "flush", away)
            with pytest.raises(TransientError):
                await second.sync()
        assert [frozen for frozen, _ in second.ledger.dirty.frozen()] == [inode]
        await second.unlink(ROOT_INODE, b"g")
        await change_there(hub, 1)
        await second.publisher.follow()
        second.delete_unused()
        assert not second.ledger.dirty.inodes()
        assert second.ledger.namespace.inode(inode) is None
        await same_everywhere(hub, second)


async def test_an_idle_device_follows_and_tells_its_doors(hub: Hub) -> None:
    await begin(hub)
    heard: list[Change] = []

    async def listen(changes: object) -> None:
        heard.extend(changes)  # type: ignore[arg-type]

    async with hub.device(2) as second, trio.open_nursery() as nursery:
        await nursery.start(second.changes.serve, "a test", listen)
        inode = second.lookup(ROOT_INODE, b"f").inode
        await change_there(hub)
        with trio.fail_after(10):
            while second.ledger.head.number < len(hub.upstream.commits) or not heard:
                await trio.sleep(0.01)
        assert await content_of(second, b"f") == b"of the first, 0"
        assert NameChanged(ROOT_INODE, b"there0") in heard
        assert NameChanged(ROOT_INODE, b"d") in heard
        assert ContentChanged(inode) in heard
        nursery.cancel_scope.cancel()


async def test_following_takes_no_room_of_the_journal_to_speak_of(hub: Hub) -> None:
    """Each of many commits of others leaves a short record, and no segment."""
    await begin(hub)
    async with hub.device(2) as second:
        segments = len(second.ledger.journal.named_files())
        for number in range(1, 6):
            await change_there(hub, number)
            await second.publisher.follow()
        assert len(second.ledger.journal.named_files()) == segments


class StillHub(MemoryHub):
    """It tells nobody that there is a new commit."""

    async def wait_for_change(self, number: int) -> None:
        await trio.sleep_forever()


async def test_who_hangs_up_while_others_changes_are_applied_leaves_a_state_that_is_saved_and_told(
    tmp_path: Path,
) -> None:
    """Regression: nothing was saved from then on, so the journal filled, and no door heard of the changes."""
    hub, failpoints, heard = Hub(tmp_path, StillHub()), Failpoints(), list[Change]()

    async def listen(changes: Sequence[Change]) -> None:
        heard.extend(changes)

    await begin(hub)
    environment = Environment(failpoints=failpoints)
    async with hub.device(2, environment=environment) as second, trio.open_nursery() as nursery:
        await nursery.start(second.changes.serve, "a test", listen)
        await change_there(hub)
        with trio.CancelScope() as calling:
            failpoints.arm("rebase.journaled", calling.cancel)
            await second.publisher.follow()
        assert b"there0" in names(second)
        second.ledger.save()
        assert second.ledger.namespace.journal_position() == second.ledger.journal.end
        await wait_all_tasks_blocked()
        assert NameChanged(ROOT_INODE, b"there0") in heard
        nursery.cancel_scope.cancel()


async def publish_much(hub: Hub, count: int) -> None:
    """So many commits of about a megabyte."""
    async with hub.device(1) as first:
        inode = first.lookup(ROOT_INODE, b"f").inode
        for number in range(count):
            for each in range(16):
                value = contents.content("random", 60_000, 16 * number + each)
                await first.set_xattr(inode, b"user.%d" % each, value)
            await first.sync()


async def test_a_journal_lets_go_of_the_commits_of_others_while_it_follows(tmp_path: Path) -> None:
    """Regression: it held all that others had published while the device was away, until it had followed all;
    and where its disk was full before that, for ever."""
    hub, sizes = Hub(tmp_path, StillHub()), list[int]()
    await begin(hub)
    async with hub.device(2) as second:
        await publish_much(hub, 12)
        journal = second.ledger.journal
        second.changes.onlookers.append(Measured(lambda: sizes.append(journal.record_bytes)))
        await second.publisher.follow()
        assert len(sizes) > 10
        assert max(sizes) < MUCH_FOLLOWED + (2 << 20)
        await same_everywhere(hub, second)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("name", ["ledger.saved", "ledger.checkpointed"])
async def test_a_device_that_is_killed_when_it_lets_go_in_its_opening_goes_on(hub: Hub, name: str) -> None:
    """It is far behind, and has changes of its own."""
    await begin(hub)
    async with hub.device(2, crash=True) as second:
        await change_here(second)
    await publish_much(hub, 6)
    await change_there(hub)
    for skip in range(2):
        await die(hub, name, skip)
    await go_on(hub)


@dataclass
class Measured:
    """An onlooker that looks before each step."""

    look: Callable[[], None]

    def before(self) -> None:
        self.look()

    def after(self, replaced: Replaced) -> None:
        """Nothing."""


async def test_more_changes_than_a_record_of_the_journal_holds_are_rebased(tmp_path: Path) -> None:
    """Regression: a device that had so many, made while its hub was away, could never be opened again."""
    hub, roomy = Hub(tmp_path, StillHub()), replace(SMALL, journal_size=1 << 30)
    await begin(hub)
    async with hub.device(2, crash=True, options=roomy) as second:
        for number in range(450):
            made = await make_file(second, b"%d" % number, b"")
            await second.set_xattr(made.inode, b"user.large", b"%4d" % number * 15_000)
        assert second.ledger.operation_bytes > MAX_PAYLOAD
        await change_there(hub)
        await second.publisher.follow()
        assert second.ledger.operation_bytes > MAX_PAYLOAD
    async with hub.device(2, options=roomy) as second:
        inode = second.lookup(ROOT_INODE, b"449").inode
        assert second.get_xattr(inode, b"user.large") == b" 449" * 15_000
        await same_everywhere(hub, second)


@dataclass
class Steps:
    """An onlooker: where each step begins."""

    drive: Drive
    heads: list[int] = field(default_factory=list)

    def before(self) -> None:
        self.heads.append(self.drive.ledger.head.number)

    def after(self, replaced: Replaced) -> None:
        assert replaced.base == self.heads[-1] < self.drive.ledger.head.number


@pytest.mark.parametrize("is_unpublished", [False, True])
async def test_many_commits_of_others_are_followed_in_steps(tmp_path: Path, is_unpublished: bool) -> None:
    """Calls go on between them, on states that were published. Where something is not published here there
    is one step, as each takes all of it up again."""
    hub = Hub(tmp_path, StillHub())
    await begin(hub)
    async with hub.device(1) as first, hub.device(2) as second:
        for number in range(20):
            for each in range(30):
                name = b"%d.%d" % (number, each)
                await make_file(first, name, name)
            await first.sync()
        if is_unpublished:
            await make_file(second, b"ours", b"ours")
        steps = Steps(second)
        second.changes.onlookers.append(steps)
        await second.publisher.follow()
        assert (len(steps.heads) == 1) == is_unpublished
        await same_everywhere(hub, first, second)


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_database_that_was_written_and_removed_here_and_replaced_there_is_gone_here(
    hub: Hub, is_held: bool
) -> None:
    """What was written to it had no inode any more: nothing could be published, nor the drive be opened."""
    async with hub.device(1) as first, hub.device(2) as second:
        made = await make_file(first, b"q", b"base")
        await make_file(first, b"q-wal", b"log")
        await first.sync()
        await second.publisher.follow()
        if is_held:
            second.hold(made.inode)
        await second.write(made.inode, 0, b"here")
        await second.unlink(ROOT_INODE, b"q")
        await first.unlink(ROOT_INODE, b"q")
        await make_file(first, b"q", b"there")
        await first.sync()
        await second.publisher.follow()
        namespace = second.ledger.namespace
        assert all(namespace.inode(inode) for inode in second.ledger.dirty.inodes())
        await same_everywhere(hub, first, second)
        assert await content_of(second, b"q") == b"there"
