"""A watch of a folder on whole drives: others' changes are told by path, once they can be seen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from stat import S_IFDIR

import pytest
import trio

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import InputOutputError, NotDirectoryError, StaleError
from cache.journal import Journal
from cache.messages import Watched
from cache.namespace.operations import ROOT_INODE
from cache.services import Watch, watch
from tests.drives import make_file
from tests.sync.drives import Hub

Lines = list[tuple[str, str, int | None]]
RESCAN = ("rescan", "", None)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


class Reader:
    """It takes the lines of a watch, while `goes_on` is set."""

    def __init__(self) -> None:
        self.lines: Lines = []
        self.ended = trio.Event()
        self.goes_on = trio.Event()
        self.goes_on.set()

    async def tell(self, lines: Sequence[Watched]) -> None:
        self.lines += [(line.change, line.path, line.device) for line in lines]
        await self.goes_on.wait()

    async def until(self, line: tuple[str, str, int | None], times: int = 1) -> None:
        """Return when it was told so often."""
        while self.lines.count(line) < times:
            await trio.sleep(0.01)


@asynccontextmanager
async def watching(drive: Drive, root: int) -> AsyncIterator[Reader]:
    reader = Reader()

    async def run() -> None:
        await Watch(drive, root).run(reader.tell)
        reader.ended.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await reader.until(RESCAN)
            yield reader
            nursery.cancel_scope.cancel()


async def folder_of(drive: Drive, name: bytes, parent: int = ROOT_INODE) -> int:
    return (await drive.make_node(parent, name, S_IFDIR | 0o755, 0, 0, 0)).inode


async def test_names_attributes_and_contents_of_others_are_told_with_their_device(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        d = await folder_of(second, b"d")
        made = await make_file(second, b"old", b"x", d)
        await make_file(second, b"beside")
        await second.sync()
        await first.publisher.follow()
        async with watching(first, d) as reader:
            await make_file(second, b"new file", b"", d)
            await second.set_attributes(made.inode, AttributeChange(mode=0o600))
            await make_file(second, b"outside")
            await second.sync()
            await reader.until(("name", "d/new%20file", 2))
            await reader.until(("attributes", "d/old", 2))
            await second.write(made.inode, 0, b"other")
            await second.settle(made.inode)
            await second.unlink(d, b"new file")
            await second.sync()
            await reader.until(("content", "d/old", 2))
            await reader.until(("name", "d/new%20file", 2), 2)
            assert all(path.startswith("d/") for _, path, _ in reader.lines[1:])


async def test_another_door_of_this_machine_is_told_as_this_device(hub: Hub) -> None:
    async with hub.device(1) as first, watching(first, ROOT_INODE) as reader:
        await make_file(first, b"f")
        await first.tell_of_name(ROOT_INODE, b"f", 0)
        await reader.until(("name", "f", 1))


async def test_a_reader_that_is_slow_is_told_to_look_at_all(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST", 10)
    async with hub.device(1) as first, hub.device(2) as second, watching(first, ROOT_INODE) as reader:
        reader.goes_on = trio.Event()
        for number in range(30):
            await make_file(second, b"%d" % number)
            await second.sync()
            await first.publisher.follow()
        reader.goes_on.set()
        await reader.until(RESCAN, 2)
        await make_file(second, b"last")
        await second.sync()
        await reader.until(("name", "last", 2))
        assert len(reader.lines) < 30


async def test_it_ends_with_its_folder(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        d = await folder_of(second, b"d")
        await second.sync()
        await first.publisher.follow()
        async with watching(first, d) as reader:
            await second.remove_directory(ROOT_INODE, b"d")
            await second.sync()
            await reader.ended.wait()


async def test_a_folder_that_moves_is_watched_where_it_is(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        d = await folder_of(second, b"d")
        await second.sync()
        await first.publisher.follow()
        async with watching(first, d) as reader:
            await second.rename(ROOT_INODE, b"d", ROOT_INODE, b"e")
            await make_file(second, b"f", b"", d)
            await second.sync()
            await reader.until(("name", "e/f", 2))


async def test_only_a_folder_is_watched(hub: Hub) -> None:
    async with hub.device(1) as first:
        made = await make_file(first, b"f")
        with pytest.raises(NotDirectoryError):
            Watch(first, made.inode)
        with pytest.raises(StaleError):
            Watch(first, 1 << 50)


async def test_what_came_by_a_rebase_whose_sync_was_refused_is_told_when_it_is_synced(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was saved until others had published again, and the watch told nothing for ever."""
    async with hub.device(1) as first, hub.device(2) as second:
        refusals, sync = [InputOutputError("no descriptor is free")] * 2, Journal.sync

        async def refuse_some(journal: Journal, *, alone: bool = False) -> None:
            if journal is first.ledger.journal and refusals:
                raise refusals.pop()
            await sync(journal, alone=alone)

        monkeypatch.setattr(Journal, "sync", refuse_some)
        async with watching(first, ROOT_INODE) as reader:
            await make_file(second, b"new", b"x")
            await second.sync()
            await reader.until(("name", "new", 2))
        assert not refusals
        assert first.ledger.rebase_synced is None
