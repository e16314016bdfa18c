"""Folders that a device of a shared drive keeps: with the changes of others, and without the hub."""

from __future__ import annotations

from pathlib import Path
from stat import S_IFDIR

import pytest
from trio.testing import MockClock

from backend.errors import AwayError
from cache.drive import Drive
from cache.keeping.keeper import LOOK_EVERY, RETRY
from cache.namespace import ROOT_INODE
from cache.sync import Replaced
from tests.contents import KINDS, content
from tests.drives import content_of, make_file
from tests.memory_hub import Line
from tests.mock_time import let_pass
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import names, same_everywhere, write

FILES = {kind.encode(): content(kind, 90_000, 1) for kind in KINDS}
LATER = {b"later " + kind.encode(): content(kind, 70_000, 2) for kind in KINDS}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


async def make(drive: Drive, files: dict[bytes, bytes], folder: int) -> None:
    for name, data in files.items():
        await make_file(drive, name, data, folder)


async def readable(drive: Drive, files: dict[bytes, bytes], folder: int) -> None:
    for name, data in files.items():
        assert await content_of(drive, name, folder) == data


@pytest.mark.logs_warnings
async def test_what_others_put_into_a_kept_folder_is_fetched_and_read_offline(
    hub: Hub, tmp_path: Path, mock_clock: MockClock
) -> None:
    line, cache = Line(), tmp_path / "cache"
    async with hub.device(1) as first, hub.device(2, line=line, disk_cache=cache) as second:
        folder = (await first.make_node(ROOT_INODE, b"kept", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(first, FILES, folder)
        await make_file(first, b"beside", content("random", 50_000, 3))
        await first.sync()
        await second.publisher.follow()
        second.keeper.keep(second.lookup(ROOT_INODE, b"kept").inode)
        await let_pass(mock_clock, 2 * LOOK_EVERY)
        await make(first, LATER, folder)
        await first.unlink(folder, b"zeros")
        await first.sync()
        await let_pass(mock_clock, 5 * LOOK_EVERY)
        status = second.keeper.status()
        assert status is not None
        assert status.here == status.bytes > 0
    line.cut()
    async with hub.device(2, line=line, disk_cache=cache) as second:
        folder = second.lookup(ROOT_INODE, b"kept").inode
        await readable(second, {name: data for name, data in FILES.items() if name != b"zeros"}, folder)
        await readable(second, LATER, folder)
        second.blocks.clear()
        with pytest.raises(AwayError):
            await content_of(second, b"beside")


@pytest.mark.logs_warnings
async def test_what_could_not_be_fetched_offline_is_fetched_when_the_hub_is_back(
    hub: Hub, tmp_path: Path, mock_clock: MockClock
) -> None:
    line = Line()
    async with hub.device(1) as first:
        folder = (await first.make_node(ROOT_INODE, b"kept", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(first, FILES, folder)
        await first.sync()
    async with hub.device(2, line=line, disk_cache=tmp_path / "cache") as second:
        line.cut()
        second.contact.lose(AwayError("no route"))
        second.keeper.keep(second.lookup(ROOT_INODE, b"kept").inode)
        await let_pass(mock_clock, 2 * LOOK_EVERY)
        status = second.keeper.status()
        assert status is not None
        assert "line to the hub is cut" in status.problem
        line.mend()
        await let_pass(mock_clock, 2 * RETRY)
        status = second.keeper.status()
        assert status is not None
        assert (status.problem, status.here) == ("", status.bytes)


@pytest.mark.logs_warnings
async def test_what_was_written_offline_into_a_kept_folder_is_kept_after_the_rebase(
    hub: Hub, tmp_path: Path, mock_clock: MockClock
) -> None:
    line, cache = Line(), tmp_path / "cache"
    async with hub.device(1) as first, hub.device(2, line=line, disk_cache=cache) as second:
        folder = (await first.make_node(ROOT_INODE, b"kept", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make_file(first, b"f", FILES[b"text"])
        await first.sync()
        await second.publisher.follow()
        second.keeper.keep(folder)
        line.cut()
        second.contact.lose(AwayError("no route"))
        await write(second, b"f", FILES[b"log"])
        await second.rename(ROOT_INODE, b"f", folder, b"f")
        await write(first, b"f", FILES[b"json"])
        await first.sync()
        line.mend()
        await let_pass(mock_clock, 40)
        await same_everywhere(hub, first, second)
        await let_pass(mock_clock, 2 * RETRY)
        status = second.keeper.status()
        assert status is not None
        assert status.here == status.bytes > 0
        line.cut()
        assert names(second)


@pytest.mark.logs_warnings
async def test_a_kept_folder_that_others_made_too_is_kept_as_the_one_that_both_are(
    hub: Hub, tmp_path: Path, mock_clock: MockClock
) -> None:
    line = Line()
    async with hub.device(1) as first, hub.device(2, line=line, disk_cache=tmp_path / "cache") as second:
        line.cut()
        second.contact.lose(AwayError("no route"))
        ours = (await second.make_node(ROOT_INODE, b"photos", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(second, FILES, ours)
        second.keeper.keep(ours)
        theirs = (await first.make_node(ROOT_INODE, b"photos", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(first, LATER, theirs)
        await first.sync()
        line.mend()
        await let_pass(mock_clock, 40)
        await same_everywhere(hub, first, second)
        await let_pass(mock_clock, 2 * RETRY)
        assert second.lookup(ROOT_INODE, b"photos").inode == theirs != ours
        (shown,) = await second.keeper.shown()
        assert shown.path == "photos"
        assert shown.here == shown.bytes >= sum(map(len, LATER.values())) / 2


@pytest.mark.logs_warnings
async def test_a_kept_folder_that_a_rebase_of_the_opening_gives_another_number_is_kept(
    hub: Hub, tmp_path: Path, mock_clock: MockClock
) -> None:
    """Regression: nobody was told of that rebase, and the folder was taken for one that is gone."""
    line, cache = Line(), tmp_path / "cache"
    async with hub.device(1) as first:
        async with hub.device(2, line=line, disk_cache=cache, crash=True) as second:
            line.cut()
            second.contact.lose(AwayError("no route"))
            ours = (await second.make_node(ROOT_INODE, b"photos", S_IFDIR | 0o755, 0, 0, 0)).inode
            await make(second, FILES, ours)
            second.keeper.keep(ours)
            await second.ledger.journal.sync()
        theirs = (await first.make_node(ROOT_INODE, b"photos", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(first, LATER, theirs)
        await first.sync()
        line.mend()
        async with hub.device(2, line=line, disk_cache=cache) as second:
            assert second.lookup(ROOT_INODE, b"photos").inode == theirs != ours
            await same_everywhere(hub, first, second)
            await let_pass(mock_clock, 2 * RETRY)
            (shown,) = await second.keeper.shown()
            assert shown.path == "photos"
            assert shown.here == shown.bytes >= sum(map(len, LATER.values())) / 2


@pytest.mark.logs_warnings
async def test_a_kept_folder_that_two_rebases_gave_other_numbers_is_kept_under_the_last(
    hub: Hub, tmp_path: Path
) -> None:
    """Regression: between two looks of the keeper only the last counted, and the folder was gone."""
    async with hub.device(2, disk_cache=tmp_path / "cache") as second:
        first_number, last_number = [
            (await second.make_node(ROOT_INODE, name, S_IFDIR | 0o755, 0, 0, 0)).inode
            for name in (b"first", b"last")
        ]
        second.keeper.keep(first_number)
        await second.remove_directory(ROOT_INODE, b"first")
        between = second.ledger.namespace.allocate_inode()
        for became in ({first_number: between}, {between: last_number}):
            second.keeper.after(Replaced(0, frozenset(), became))
        assert [each.path for each in await second.keeper.shown()] == ["last"]
