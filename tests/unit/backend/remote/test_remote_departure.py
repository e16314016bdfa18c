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
    await mover.begin(NODES)
    await mover.begin(NODES)
    assert await device.state() == (False, False, False)
    assert await mover.close() == head
    assert await mover.close() == head
    assert await device.state() == (True, True, False)
    with pytest.raises(ReadOnlyError, match="being moved from here"):
        await device.commit()
    await mover.stay()
    await mover.stay()
    assert await device.state() == (False, False, False)
    assert (await device.commit()).number == 2
    again = device.mover()
    await again.begin(NODES)
    await again.close()
    await again.leave()
    await again.leave()
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
    await _require_refused(first.close, first.stay, first.leave)
    await third.begin(NODES)
    await first.begin(NODES)
    await _require_refused(third.close, third.stay)
    await first.close()
    with pytest.raises(ConflictError, match="another has begun"):
        await second.begin(NODES)
    await second.begin(NODES, over=True)
    assert await device.state() == (True, True, False)
    await _require_refused(first.stay, first.leave, first.close, lambda: first.begin(NODES))
    await second.leave()
    await _require_refused(second.stay, lambda: third.begin(NODES), lambda: third.begin(NODES, over=True))
    await device.client.close()


@pytest.mark.parametrize("has_closed", [True, False])
async def test_a_request_to_close_that_comes_late_closes_nothing(device: Device, has_closed: bool) -> None:
    """Its mover was stopped, and has had the drive stay, before the hub met that request; it may have asked
    twice for its ticket to count."""
    await device.commit()
    mover, other = device.mover(), device.mover()
    await mover.begin(NODES)
    if has_closed:
        await mover.close()
    await mover.stay()
    await _require_refused(lambda: mover.begin(NODES), mover.close, mover.leave)
    await mover.stay()
    assert await device.state() == (False, False, False)
    await other.begin(NODES)
    await other.close()
    await _require_refused(mover.stay)
    await other.stay()
    await device.client.close()


async def test_a_mover_of_other_nodes_shuts_nobody_out(device: Device) -> None:
    """Who has the lease of these nodes knows nothing of a mover of those."""
    mover, other, others = device.mover(), device.mover(), b"o" * 16
    back = RemoteImport(device.client, device.drive, os.urandom(16))
    await mover.begin(NODES)
    await mover.close()
    await _require_refused(lambda: other.begin(others, over=True), lambda: back.take_over(others))
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
    await mover.begin(NODES)
    await mover.close()
    await mover.leave()
    await back.take_over(NODES)
    assert await device.state() == (True, False, False)
    made = await back.append(Commit(2, head.hash, 1, 3, 1, (), (), b"on nodes"), head)
    await back.open(made)
    assert (await device.commit()).number == 3
    await device.client.close()
