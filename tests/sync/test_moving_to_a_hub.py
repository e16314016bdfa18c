"""A drive on nodes is copied to a real hub while it is used: its blocks, its log, its past."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from backend.errors import ConflictError, CorruptError
from backend.remote import HubAccount, HubClient, RemoteImport, RemoteUpstream
from backend.system import Environment
from backend.upstream import Commit, Head
from cache.drive import Drive
from cache.retention import Policy
from cache.services import Copying
from tests import contents
from tests.contents import KINDS
from tests.drives import DRIVE_ID, QUIET, make_file, opened, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.memory_upstream import MemoryUpstream


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@dataclass
class AtHub:
    """See `cache.services.copying.Destination`. `before`: is called before a commit is given."""

    upstream: RemoteUpstream
    mover: RemoteImport
    before: Callable[[Commit], None] = lambda _: None

    def __post_init__(self) -> None:
        self.blocks, self.roots, self.head = self.upstream.blocks, self.upstream.roots, self.upstream.log.head

    async def append(self, commit: Commit, expected: Head) -> Head:
        self.before(commit)
        return await self.mover.append(commit, expected)


class AtHubs:
    """The drive as it is moved to a hub, by one session after the other."""

    def __init__(self, running: RunningHub) -> None:
        self._url = running.url
        _, self._token = running.new_drive()

    async def make(self) -> None:
        """An empty drive, which is to be moved there."""
        client = HubClient(self._url, self._token)
        await HubAccount(client).add_drive(DRIVE_ID, b"sealed", b"t" * 16)
        await client.close()

    @asynccontextmanager
    async def session(self, *, is_mover: bool = True) -> AsyncIterator[AtHub]:
        client = HubClient(self._url, self._token)
        upstream, mover = RemoteUpstream(client, DRIVE_ID), RemoteImport(client, DRIVE_ID, os.urandom(16))
        if is_mover:
            await mover.take_over(b"n" * 16)
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            yield AtHub(upstream, mover)
            await upstream.close()

    async def seen(self, folder: Path) -> tuple[dict[bytes, tuple[object, ...]], list[int]]:
        """All that a device with that state folder sees there, and the moments that it can look at."""
        options = replace(QUIET, is_shared=True)
        async with self.session(is_mover=False) as there, opened(folder, there.upstream, options) as drive:
            await make_file(drive, b"of " + folder.name.encode(), b"goes on")
            await drive.sync()
            return await tree(drive), _points(drive)


@pytest.fixture
async def hub(running: RunningHub) -> AtHubs:
    made = AtHubs(running)
    await made.make()
    return made


def _points(drive: Drive) -> list[int]:
    return [point.number for point in drive.ledger.namespace.points.points()]


def _tell(_what: str, _done: int) -> None:
    """Nobody is told."""


async def fill(drive: Drive) -> None:
    """Files of all kinds in several commits; of some the first content is needed by nothing any more."""
    for number, kind in enumerate(KINDS):
        made = await make_file(drive, b"f%d" % number, contents.content(kind, 40_000, number))
        await drive.sync()
        await drive.write(made.inode, 0, contents.content(kind, 40_000, number + 100))
        await drive.settle(made.inode)
        await drive.sync()
    drive.retention.set_policy(Policy(0, 0, 0, 0, 0))
    await drive.retention.collect(grace=0, trust_clock=True)
    await drive.snapshots.make()
    await make_file(drive, b"later", contents.content("text", 9_000, 9))
    await drive.sync()


async def test_a_drive_in_use_is_copied_and_goes_on_at_the_hub(hub: AtHubs, tmp_path: Path) -> None:
    source = MemoryUpstream()
    async with opened(tmp_path / "here", source) as drive:
        await fill(drive)
        named = {block for commit, _ in source.commits for block in commit.added}
        assert named - source.stored.keys(), "some blocks that commits name are gone"
        async with hub.session() as there:
            copying = Copying(drive, there, _tell)
            await copying.run()
            await make_file(drive, b"meanwhile", contents.content("random", 70_000, 5))
            await drive.sync()
            head = await copying.finish()
            assert head == await source.head()
            assert await there.upstream.log.commits_after(0) == await source.commits_after(0)
            assert len(await there.roots.get_root("snapshot")) == 1
            await there.mover.open(head)
        expected, points = await tree(drive), _points(drive)
    for name in ("here", "another"):
        found, there_points = await hub.seen(tmp_path / name)
        assert b"/of " + name.encode() in found
        assert {path: found[path] for path in expected} == expected
        assert {*points} <= {*there_points}


class _StoppedError(Exception):
    """Somebody stops the copying."""


def _stop() -> None:
    raise _StoppedError


async def test_a_copy_that_was_stopped_goes_on_where_it_was(hub: AtHubs, tmp_path: Path) -> None:
    source = MemoryUpstream()

    def stop(commit: Commit) -> None:
        if commit.number == 4:
            _stop()

    async with opened(tmp_path / "here", source) as drive:
        await fill(drive)
        for name, head in (("copying.blocks", 0), ("copying.log", len(source.commits))):
            environment = Environment()
            environment.failpoints.arm(name, _stop)
            async with hub.session() as there:
                if head:
                    with pytest.raises(_StoppedError):
                        await Copying(drive, replace(there, before=stop), _tell).run()
                    assert (await there.head()).number == 3
                with pytest.raises(_StoppedError):
                    await Copying(drive, there, _tell, environment).run()
                assert (await there.head()).number == head
        told: list[tuple[str, int]] = []
        async with hub.session() as there:
            copying = Copying(drive, there, lambda what, done: told.append((what, done)))
            await copying.run()
            assert "commits" not in dict(told)
            await there.mover.open(await copying.finish())
        expected = await tree(drive)
    found, _ = await hub.seen(tmp_path / "another")
    assert {path: found[path] for path in expected} == expected


async def test_what_is_wrong_here_is_not_given_to_the_hub(hub: AtHubs, tmp_path: Path) -> None:
    source = MemoryUpstream()
    async with opened(tmp_path / "here", source) as drive:
        made = await make_file(drive, b"f", contents.content("random", 50_000))
        await drive.sync()
        (block, *_) = source.commits[-1][0].added
        source.corrupt.add(block)
        drive.blocks.clear()
        async with hub.session() as there:
            await Copying(drive, there, _tell).run()
            assert bytes(await there.blocks.get_block(block)) == source.stored[block]
        await drive.write(made.inode, 0, contents.content("random", 50_000, 2))
        await drive.settle(made.inode)
        await drive.sync()
        del source.stored[source.commits[-1][0].added[0]]
        async with hub.session() as there:
            with pytest.raises(CorruptError, match="not stored"):
                await Copying(drive, there, _tell).run()


async def test_a_copy_of_another_history_is_refused(hub: AtHubs, tmp_path: Path) -> None:
    for name in ("one", "other"):
        async with opened(tmp_path / name, MemoryUpstream()) as drive:
            await make_file(drive, b"f", name.encode())
            await drive.sync()
            async with hub.session() as there:
                if name == "one":
                    await Copying(drive, there, _tell).run()
                else:
                    with pytest.raises(ConflictError, match="another history"):
                        await Copying(drive, there, _tell).run()
