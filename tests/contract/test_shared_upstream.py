"""What an upstream does that several sessions write (`backend/upstream.py`): the one in memory, and a hub
with its database, over HTTP.

What it does for one session alone is asked by `test_upstream`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from backend.errors import BlocksMissingError, ConflictError, NotFoundError
from backend.remote import HubClient, RemoteUpstream
from backend.upstream import BlockId, Commit, Head, SealedBlock, SealedPresence, Upstream
from backend.wire import PRESENCE_SIZE
from tests.contents import KINDS, Kind, content
from tests.contract.test_upstream import append, block, blocks, following, ids, store
from tests.hub_server import RunningHub, hub_for_test
from tests.memory_hub import MemoryHub

DRIVE = bytes(range(16))
Devices = Callable[[int], AbstractAsyncContextManager[Upstream]]
"""The session of a device."""


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture(params=["memory", "hub"])
def device(request: pytest.FixtureRequest) -> Devices:
    """The sessions of a new drive."""
    if request.param == "memory":
        return _in_memory(MemoryHub())
    running = request.getfixturevalue("running")
    return over_http(running, running.new_drive())


def _in_memory(hub: MemoryHub) -> Devices:
    @asynccontextmanager
    async def session(_number: int) -> AsyncIterator[Upstream]:
        yield hub.session()

    return session


def over_http(running: RunningHub, drive: tuple[bytes, bytes]) -> Devices:
    """Sessions of the drive of that id, by that token."""
    uuid, token = drive
    tokens = {1: token}

    @asynccontextmanager
    async def session(number: int) -> AsyncIterator[Upstream]:
        if number not in tokens:
            tokens[number] = await trio.to_thread.run_sync(running.another_token, token)
        upstream = RemoteUpstream(HubClient(running.url, tokens[number]), uuid)
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            yield upstream
            await upstream.close()

    return session


def naming(upstream: Upstream, head: Head, added: list[BlockId], dropped: list[BlockId]) -> Commit:
    return Commit(head.number + 1, head.hash, 1, upstream.epoch, 5, tuple(added), tuple(dropped), b"")


async def put(upstream: Upstream, added: list[BlockId], dropped: list[BlockId]) -> Head:
    head = await upstream.log.head()
    return await upstream.log.append(naming(upstream, head, added, dropped), head)


async def test_commits_of_all_are_in_one_order(device: Devices) -> None:
    async with device(1) as first, device(2) as second:
        heads = [await append(each, b"%d" % number) for number, each in enumerate([first, second] * 3)]
        for each in (first, second):
            assert await each.log.head() == heads[-1]
            found = await each.log.commits_after(0)
            assert [Head(commit.number, digest) for commit, digest in found] == heads
            assert [commit.payload for commit, _ in await each.log.commits_after(4, limit=1)] == [b"4"]
            assert await each.log.commits_after(6) == []


async def test_of_commits_on_one_head_one_wins_and_a_lost_answer_is_no_conflict(device: Devices) -> None:
    async with device(1) as first, device(2) as second:
        before = await first.log.head()
        commit = following(first, before, b"first")
        head = await first.log.append(commit, before)
        with pytest.raises(ConflictError):
            await second.log.append(following(second, before, b"second"), before)
        assert await first.log.append(commit, before) == head == await second.log.head()


async def test_sixteen_at_once_lose_nothing(device: Devices) -> None:
    async with device(1) as upstream:

        async def add(number: int) -> None:
            while True:
                head = await upstream.log.head()
                try:
                    await upstream.log.append(following(upstream, head, b"%d" % number), head)
                    return
                except ConflictError:
                    await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(add, number)
        payloads = {commit.payload for commit, _ in await upstream.log.commits_after(0)}
        assert payloads == {b"%d" % number for number in range(16)}


async def test_who_waits_hears_of_the_others_commit(device: Devices) -> None:
    async with device(1) as first, device(2) as second:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.log.wait_for_change, 0)
                await append(first)


@pytest.mark.parametrize("kind", KINDS)
async def test_blocks_of_one_are_there_for_the_others(device: Devices, kind: Kind) -> None:
    sizes = enumerate((1, 5_000, 300_000), 1)
    sealed = [block(bytes([number]) * 4 + content(kind, size, number)) for number, size in sizes]
    async with device(1) as first, device(2) as second:
        assert await first.blocks.missing(ids(sealed)) == {*ids(sealed)}
        await store(first, sealed)
        assert await second.blocks.missing(ids(sealed)) == set()
        for one in sealed:
            assert await second.blocks.get_block(one.id) == one.data
            assert await second.blocks.get_block_again(one.id) == one.data
            part = await second.blocks.get_block_part(one.id, 3, 1000)
            assert part == (one.data[3:1003], len(one.data))
        with pytest.raises(NotFoundError):
            await second.blocks.get_block(BlockId(bytes(32)))
        found: list[BlockId] = []
        while page := await second.housekeeping.stored_blocks(found[-1] if found else b"", 2):
            found += page
        assert found == sorted(ids(sealed))


async def test_a_commit_that_names_what_is_not_stored_is_refused_by_name(device: Devices) -> None:
    there, lacking = blocks(2)
    async with device(1) as upstream:
        await store(upstream, [there])
        with pytest.raises(BlocksMissingError) as raised:
            await put(upstream, ids([there, lacking]), [])
        assert raised.value.blocks == (lacking.id,)
        assert (await upstream.log.head()).number == 0
        await store(upstream, [lacking])
        assert (await put(upstream, ids([there, lacking]), [])).number == 1


async def test_what_a_commit_drops_is_missing_and_what_one_names_again_is_not(device: Devices) -> None:
    named, given = blocks(2)
    async with device(1) as first, device(2) as second:
        await store(first, [named, given])
        await put(first, ids([named, given]), [])
        assert {*await first.housekeeping.release(ids([named, given]))} == {*ids([named, given])}
        assert await second.blocks.missing(ids([named, given])) == set()
        await put(second, [], ids([named, given]))
        assert await first.housekeeping.release(ids([named])) == []
        assert await first.blocks.missing(ids([named, given])) == {*ids([named, given])}
        assert await first.blocks.get_block(named.id) == named.data
        await put(first, [named.id], [])
        await store(second, [given])
        assert await second.blocks.missing(ids([named, given])) == set()


async def test_a_block_that_is_there_is_not_replaced(device: Devices) -> None:
    (there,) = blocks(1)
    async with device(1) as first, device(2) as second:
        await store(first, [there])
        await store(second, [SealedBlock(there.id, b"other bytes")])
        assert await first.blocks.get_block(there.id) == there.data
        await put(first, [there.id], [])
        await store(second, [SealedBlock(there.id, b"other bytes")])
        assert await first.blocks.get_block_again(there.id) == there.data


async def test_a_block_that_is_said_to_be_wrong_is_missing_until_it_is_given_anew(device: Devices) -> None:
    (wrong,) = blocks(1)
    async with device(1) as first, device(2) as second:
        await store(first, [wrong])
        await put(first, [wrong.id], [])
        assert await second.blocks.report_wrong(wrong.id) is False
        assert await first.blocks.missing([wrong.id]) == {wrong.id}
        await store(first, [SealedBlock(wrong.id, b"as it should be")])
        assert await second.blocks.missing([wrong.id]) == set()
        assert await second.blocks.get_block(wrong.id) == b"as it should be"


async def test_roots_are_those_of_all(device: Devices) -> None:
    async with device(1) as first, device(2) as second:
        assert await second.roots.get_root("snapshot") == []
        await first.roots.put_root("snapshot", b"one")
        await second.roots.put_root("snapshot", b"two")
        assert await first.roots.get_root("snapshot") == [b"two"]


def presences(*letters: bytes) -> list[SealedPresence]:
    return [SealedPresence(letter * 32, letter * PRESENCE_SIZE) for letter in letters]


async def test_presences_are_shown_to_others_and_replaced_whole(device: Devices) -> None:
    async with device(1) as first, device(2) as second, device(3) as third:
        boards = [each.presence for each in (first, second, third)]
        one, two, three = (each for each in boards if each is not None)
        await one.show(presences(b"a", b"b"))
        await two.show(presences(b"c"))
        assert sorted(await three.of_others()) == presences(b"a", b"b", b"c")
        assert await one.of_others() == presences(b"c")
        await one.show(presences(b"b"))
        await two.show([])
        assert await three.of_others() == presences(b"b")


async def test_who_listens_hears_that_others_show_something_else(device: Devices) -> None:
    async with device(1) as first, device(2) as second, trio.open_nursery() as nursery:
        assert first.presence is not None
        assert second.presence is not None
        second.presence.listen(lambda: True)
        nursery.start_soon(second.log.wait_for_change, 0)
        for shown in (presences(b"a"), presences(b"a", b"b"), []):
            await first.presence.show(shown)
            with trio.fail_after(30):
                while await second.presence.of_others() != shown:
                    await second.presence.wait_for_news()
                await second.presence.wait_for_news()
        nursery.cancel_scope.cancel()
