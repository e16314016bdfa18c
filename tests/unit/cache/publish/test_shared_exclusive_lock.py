"""The shared/exclusive lock: who waits for whom."""

from __future__ import annotations

import trio
import trio.testing

from cache.publish.shared_exclusive_lock import SharedExclusiveLock


class Holder:
    """A task that takes the lock in one way, notes it, and holds it until it is told to let go."""

    def __init__(self, lock: SharedExclusiveLock, *, exclusive: bool) -> None:
        self._lock = lock
        self._exclusive = exclusive
        self.holds = False
        self.let_go = trio.Event()

    async def run(self) -> None:
        async with self._lock.exclusive() if self._exclusive else self._lock.shared():
            self.holds = True
            await self.let_go.wait()
            self.holds = False


async def test_many_share_it_and_one_has_it_alone_in_turn() -> None:
    lock = SharedExclusiveLock()
    holders = [Holder(lock, exclusive=exclusive) for exclusive in (False, False, True, False)]

    async def holding() -> list[bool]:
        await trio.testing.wait_all_tasks_blocked()
        return [holder.holds for holder in holders]

    async with trio.open_nursery() as nursery:
        for holder in holders:
            nursery.start_soon(holder.run)
            await trio.testing.wait_all_tasks_blocked()
        assert await holding() == [True, True, False, False]
        holders[0].let_go.set()
        assert await holding() == [False, True, False, False]
        holders[1].let_go.set()
        assert await holding() == [False, False, True, False], "the one that came first"
        holders[2].let_go.set()
        assert await holding() == [False, False, False, True]
        holders[3].let_go.set()


async def test_who_is_cancelled_holds_nothing() -> None:
    lock = SharedExclusiveLock()
    async with trio.open_nursery() as nursery:
        sharing = Holder(lock, exclusive=False)
        nursery.start_soon(sharing.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await Holder(lock, exclusive=True).run()
        async with lock.shared():
            assert sharing.holds
        nursery.cancel_scope.cancel()
    async with lock.exclusive():
        pass
