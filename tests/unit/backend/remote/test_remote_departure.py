"""A real hub closes a drive that is moved away, for one mover, and tells its devices."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator

import pytest

from backend.errors import ConflictError, FencedError, ReadOnlyError
from backend.remote import HubAccount, HubClient, RemoteDeparture, RemoteImport, RemoteUpstream
from backend.upstream import Commit, Head
from tests.hub_server import RunningHub, hub_for_test

NODES = b"n" * 16


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Device:
    """One at a hub, with a new drive."""

    def __init__(self, running: RunningHub) -> None:
        self.drive, token = running.new_drive()
        self.client = HubClient(running.url, token)
        self.upstream = RemoteUpstream(self.client, self.drive)

    def mover(self) -> RemoteDeparture:
        """A new one, with a ticket of its own."""
        return RemoteDeparture(self.client, self.drive, os.urandom(16))

    async def commit(self) -> Head:
        """One more."""
        head = await self.upstream.log.head()
        return await self.upstream.log.append(Commit(head.number + 1, head.hash, 1, 0, 1, (), (), b"x"), head)

    async def state(self) -> tuple[bool, bool, bool]:
        """Whether the hub takes no commits, as it is leaving, or has left."""
        (row,) = await HubAccount(self.client).drives()
        return row.is_importing, row.is_leaving, row.has_left


@pytest.fixture
def device(running: RunningHub) -> Device:
    return Device(running)


async def test_no_commit_comes_after_the_one_that_the_mover_is_told(device: Device) -> None:
    head = await device.commit()
    mover = device.mover()
    assert await mover.close(NODES) == head
    assert await mover.close(NODES) == head
    assert await device.state() == (True, True, False)
    with pytest.raises(ReadOnlyError, match="being moved from here"):
        await device.commit()
    await mover.stay()
    await mover.stay()
    assert await device.state() == (False, False, False)
    assert (await device.commit()).number == 2
    await mover.close(NODES)
    await mover.leave()
    await mover.leave()
    assert await device.state() == (True, False, True)
    with pytest.raises(FencedError, match="has moved from the hub"):
        await device.commit()
    await device.client.close()


async def _require_refused(*calls: Callable[[], Awaitable[object]]) -> None:
    for call in calls:
        with pytest.raises(ConflictError):
            await call()


async def test_one_mover_counts(device: Device) -> None:
    first, second, third = device.mover(), device.mover(), device.mover()
    await _require_refused(first.stay, first.leave)
    await first.close(NODES)
    with pytest.raises(ConflictError, match="another has begun"):
        await second.close(NODES)
    await second.close(NODES, over=True)
    await _require_refused(first.stay, first.leave, lambda: first.close(NODES))
    await second.leave()
    await _require_refused(second.stay, lambda: third.close(NODES), lambda: third.close(NODES, over=True))
    await device.client.close()


async def test_a_mover_of_other_nodes_shuts_nobody_out(device: Device) -> None:
    """Who has the lease of these nodes knows nothing of a mover of those."""
    mover, other, others = device.mover(), device.mover(), b"o" * 16
    back = RemoteImport(device.client, device.drive, os.urandom(16))
    await mover.close(NODES)
    await _require_refused(lambda: other.close(others, over=True), lambda: back.take_over(others))
    await mover.leave()
    await _require_refused(lambda: back.take_over(others))
    await back.take_over(NODES)
    await _require_refused(lambda: back.take_over(others))
    await device.client.close()


async def test_a_drive_that_has_left_comes_back_from_where_it_was(device: Device) -> None:
    head = await device.commit()
    mover, back = device.mover(), RemoteImport(device.client, device.drive, os.urandom(16))
    with pytest.raises(ConflictError):
        await back.take_over(NODES)
    await mover.close(NODES)
    await mover.leave()
    await back.take_over(NODES)
    assert await device.state() == (True, False, False)
    made = await back.append(Commit(2, head.hash, 1, 3, 1, (), (), b"on nodes"), head)
    await back.open(made)
    assert (await device.commit()).number == 3
    await device.client.close()
