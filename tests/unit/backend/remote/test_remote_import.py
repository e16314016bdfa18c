"""A log that is moved to a hub: one mover at a time, no device before its end, and nothing after it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from backend.commits import encode_commit
from backend.errors import ConflictError, FormatError, ReadOnlyError
from backend.remote import HubAccount, HubClient, RemoteImport, RemoteUpstream
from backend.system import plain_hash
from backend.upstream import NO_COMMIT, BlockId, Commit, Head, SealedBlock
from tests.contents import content
from tests.hub_server import RunningHub, hub_for_test

EMPTY = Head(0, NO_COMMIT)
OLD, NEW = BlockId(b"o" * 32), BlockId(b"n" * 32)
FIRST, SECOND = b"1" * 16, b"2" * 16
NODES = b"n" * 16


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Moved:
    """A drive that is being moved, and the session of a device."""

    def __init__(self, client: HubClient, uuid: bytes, upstream: RemoteUpstream) -> None:
        self.uuid, self.upstream = uuid, upstream
        self.account = HubAccount(client)
        self.first, self.second = (RemoteImport(client, uuid, ticket) for ticket in (FIRST, SECOND))


@asynccontextmanager
async def moved(running: RunningHub) -> AsyncIterator[Moved]:
    _, token = running.new_drive()
    uuid = os.urandom(16)
    client = HubClient(running.url, token)
    upstream = RemoteUpstream(client, uuid)
    found = Moved(client, uuid, upstream)
    await found.account.add_drive(uuid, b"sealed", FIRST)
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        yield found
        await upstream.close()


def commits(count: int) -> list[tuple[Commit, Head]]:
    """A log, each commit with what the head is after it. The first names a block that is gone."""
    found, head = [], EMPTY
    for number in range(1, count + 1):
        added, dropped = ((OLD, NEW), ()) if number == 1 else ((), (OLD,))
        commit = Commit(number, head.hash, 1, 7 - number, number, added, dropped, content("text", 90, number))
        head = Head(number, plain_hash(encode_commit(commit)))
        found.append((commit, head))
    return found


async def test_a_log_is_taken_whose_old_blocks_are_gone_and_then_devices_go_on(running: RunningHub) -> None:
    async with moved(running) as drive:
        await drive.upstream.blocks.put_blocks([SealedBlock(NEW, content("random", 500))])
        await drive.upstream.blocks.flush()
        before, log = EMPTY, commits(3)
        for commit, head in log:
            for _ in range(2):
                assert await drive.first.append(commit, before) == head
            before = head
        assert [row.is_importing for row in await drive.account.drives() if row.uuid == drive.uuid] == [True]
        for _ in range(2):
            await drive.first.open(before)
        found = await drive.upstream.log.commits_after(0)
        assert found == [(commit, head.hash) for commit, head in log]
        assert await drive.upstream.blocks.missing([OLD, NEW]) == {OLD}
        assert [row.is_importing for row in await drive.account.drives() if row.uuid == drive.uuid] == [False]
        commit = Commit(4, before.hash, 1, 0, 9, (NEW,), (), b"")
        after = await drive.upstream.log.append(commit, before)
        assert await drive.upstream.log.head() == after


async def test_devices_are_refused_before_the_end_and_movers_after_it(running: RunningHub) -> None:
    (first, head), (second, last) = commits(2)
    async with moved(running) as drive:
        log, nothing_added = drive.upstream.log, replace(second, added=())
        with pytest.raises(ReadOnlyError, match="being moved"):
            await log.append(replace(first, added=()), EMPTY)
        await drive.first.append(first, EMPTY)
        with pytest.raises(ReadOnlyError, match="being moved"):
            await log.append(nothing_added, head)
        await drive.first.open(head)
        for mover in (drive.first, drive.second):
            with pytest.raises(ConflictError):
                await mover.append(second, head)
            with pytest.raises(ConflictError):
                await mover.take_over(NODES)
        await log.append(second, head)
        assert await log.head() == last


async def test_a_mover_that_has_taken_over_shuts_out_the_one_before(running: RunningHub) -> None:
    (first, head), (second, last) = commits(2)
    async with moved(running) as drive:
        await drive.first.append(first, EMPTY)
        for _ in range(2):
            await drive.second.take_over(NODES)
        with pytest.raises(ConflictError):
            await drive.first.append(second, head)
        with pytest.raises(ConflictError):
            await drive.first.open(head)
        await drive.second.append(second, head)
        with pytest.raises(ConflictError):
            await drive.second.open(head)  # not the newest any more
        await drive.second.open(last)


async def test_what_is_no_next_commit_is_refused(running: RunningHub) -> None:
    (first, head), (second, _) = commits(2)
    async with moved(running) as drive:
        with pytest.raises(ConflictError, match="moved"):
            await drive.first.append(second, head)
        with pytest.raises(FormatError):
            await drive.first.append(second, EMPTY)
        await drive.first.append(first, EMPTY)


async def test_a_drive_that_was_not_made_for_it_takes_no_import(running: RunningHub) -> None:
    uuid, token = running.new_drive()
    client = HubClient(running.url, token)
    mover = RemoteImport(client, uuid, FIRST)
    (first, _), *_ = commits(1)
    with pytest.raises(ConflictError):
        await mover.take_over(NODES)
    with pytest.raises(ConflictError):
        await mover.append(first, EMPTY)
    with pytest.raises(ConflictError):
        await mover.open(EMPTY)
    await client.close()
