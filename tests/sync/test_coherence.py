"""`coherence=open`: who opens sees what others had published, though the hub tells nobody of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from backend.errors import ThrottledError
from backend.upstream import Head
from cache.contact.contact import PATIENCE
from cache.errors import AbandonedError
from cache.journal import Journal
from cache.sync import Change
from tests import contents
from tests.contents import KINDS
from tests.drives import content_of, make_file
from tests.memory_hub import HubSession, Line
from tests.mock_time import let_pass
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import names, write

CALLERS = 50


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Its polls are not answered: a device hears of others' commits when it asks."""

    async def wait(session: HubSession, number: int) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(HubSession, "wait_for_change", wait)
    return Hub(tmp_path)


async def test_an_opening_sees_what_was_published_before_it(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        for number, kind in enumerate(KINDS):
            name, data = kind.encode(), contents.content(kind, 30_000, number)
            await make_file(first, name, data)
            await first.sync()
            assert name not in names(second)
            await second.reach_head(told=True)
            assert await content_of(second, name) == data
            await write(first, name, data[::-1])
            await first.sync()
            await second.reach_head(told=True)
            assert await content_of(second, name) == data[::-1]


async def test_the_doors_were_told_before_it_goes_on(hub: Hub) -> None:
    told: list[Change] = []
    may_hear = trio.Event()

    async def listen(changes: Sequence[Change]) -> None:
        await may_hear.wait()
        told.extend(changes)

    async with hub.device(1) as first, hub.device(2) as second, trio.open_nursery() as nursery:
        await second.reach_head(told=True)
        await nursery.start(second.changes.serve, "a slow door", listen)
        await make_file(first, b"f", b"x")
        await first.sync()
        await second.reach_head(told=False)
        assert not told
        nursery.start_soon(set_later, may_hear)
        await second.reach_head(told=True)
        assert told
        nursery.cancel_scope.cancel()


async def set_later(event: trio.Event) -> None:
    """When nobody goes on before that."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    event.set()


async def test_the_doors_were_told_of_what_is_followed_already(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: who opened while the journal was synced after a rebase saw what the kernel remembered."""
    told: list[Change] = []
    is_syncing, may_end, sync = trio.Event(), trio.Event(), Journal.sync

    async def wait_and_sync(journal: Journal) -> None:
        is_syncing.set()
        await may_end.wait()
        await sync(journal)

    async def listen(changes: Sequence[Change]) -> None:
        told.extend(changes)

    async with hub.device(1) as first, hub.device(2) as second, trio.open_nursery() as nursery:
        await second.reach_head(told=True)
        await nursery.start(second.changes.serve, "a door", listen)
        await make_file(first, b"f", b"x")
        await first.sync()
        monkeypatch.setattr(Journal, "sync", wait_and_sync)
        nursery.start_soon(second.publisher.follow)
        await is_syncing.wait()
        seen = b"f" in names(second)
        await second.reach_head(told=True)
        was_told = [*told]
        may_end.set()
        assert seen
        assert was_told
        nursery.cancel_scope.cancel()


async def test_those_who_open_at_once_share_questions(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = 0, HubSession.head

    async def head(session: HubSession) -> Head:
        nonlocal asked
        asked += 1
        await trio.sleep(0.01)
        return await ask(session)

    async with hub.device(1), hub.device(2) as second:
        monkeypatch.setattr(HubSession, "head", head)
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(lambda: second.reach_head(told=True))
        assert 0 < asked < 5


async def test_a_hub_that_asks_to_come_later_is_asked_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the hub counted as away, and the file was opened as it was."""
    refusals, ask = [0.2, 0.0, 0.1], HubSession.head

    async def head(session: HubSession) -> Head:
        if refusals:
            raise ThrottledError("the account makes too many requests", refusals.pop())
        return await ask(session)

    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", b"x")
        await first.sync()
        monkeypatch.setattr(HubSession, "head", head)
        await second.reach_head(told=True)
        assert not second.contact.is_lost
        assert b"f" in names(second)
        assert not refusals


@pytest.mark.logs_warnings
async def test_nobody_waits_for_a_hub_that_is_away(hub: Hub, mock_clock: MockClock) -> None:
    line = Line()
    async with hub.device(1), hub.device(2, line=line) as second, trio.open_nursery() as nursery:
        nursery.start_soon(let_pass, mock_clock, 1000)
        line.cut(silent=True)
        with trio.fail_after(PATIENCE + 1):
            await second.reach_head(told=True)
        begun = trio.current_time()
        for _ in range(10):
            await second.reach_head(told=True)
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()


@pytest.mark.logs_warnings
async def test_who_was_killed_waits_no_longer(hub: Hub, mock_clock: MockClock) -> None:
    line, killed = Line(), trio.lowlevel.current_task()
    async with hub.device(1), hub.device(2, line=line) as second, trio.open_nursery() as nursery:
        nursery.start_soon(second.slow_waits.cut_off, lambda task: task is killed)
        nursery.start_soon(let_pass, mock_clock, 1000)
        line.cut(silent=True)
        with pytest.raises(AbandonedError):
            await second.reach_head(told=True)
        nursery.cancel_scope.cancel()
