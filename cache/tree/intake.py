"""The intake: the way in for every change. It is where a change waits for room.

Invariants:
1. Calls that change are async, because they wait for a bounded time while the journal is full, and while a
   large rebase is made aside (`cache.journal.rebasing`). Normally they do not give up control at all. They
   never give it up between the check and the acceptance.
2. A change that is accepted wakes the publisher.

Event-loop thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import trio

from cache.errors import (
    DriveFullError,
    InputOutputError,
    NoSpaceLeftError,
    ReadOnlyFileSystemError,
)
from cache.file_clock import FileClock
from cache.journal import Ledger, Need, Trimming
from cache.namespace import Operation
from cache.publish import Publisher
from cache.slow_waits import SlowWaits
from cache.tree.put_off import PutOff

PATIENCE: Final = 5.0
"""Seconds that a change waits for room at most. A dozen pages that the kernel writes back at once trickle in
so at some 2 MB/s while the nodes are away, until the journal has twice its size."""
_WAIT: Final = {Need.GROW: 1, Need.CHANGE: 1, Need.FREE: 3}
"""Beyond so many times what makes writers wait, whoever has this need waits; one more, and it is refused."""


class Intake:
    """See the module. `read_only`: nothing can be changed."""

    def __init__(
        self,
        ledger: Ledger,
        trimming: Trimming,
        publisher: Publisher,
        put_off: PutOff,
        slow_waits: SlowWaits,
        *,
        read_only: bool,
    ) -> None:
        self._ledger = ledger
        self._trimming = trimming
        self._put_off = put_off
        self._slow_waits = slow_waits
        self._namespace = ledger.namespace
        self._publisher = publisher
        self.read_only = read_only
        self.closing = False
        self._clock = FileClock()
        self.wake = publisher.wake
        """to be called when the ledger itself accepted something"""

    def now(self) -> int:
        """The time that the kernel would stamp a file with now (`cache.file_clock`)."""
        return self._clock.now()

    async def close(self) -> None:
        """Nothing is accepted any more; who waits is told so."""
        self.closing = True
        await self._ledger.wake_waiting()

    def accept(self, operation: Operation) -> None:
        """Accept an operation that is valid on the present state, and for which there is room."""
        self._ledger.accept(operation)
        self.wake()

    def accept_all(self, operations: Sequence[Operation]) -> None:
        """The same of several: together, or nothing of it."""
        self._ledger.accept_all(operations)
        if operations:
            self.wake()

    async def room(self, need: Need, size: int = 0) -> None:
        """Return when a change of so many bytes can be accepted; refuse when it cannot, or the drive cannot
        be written. `AbandonedError`: see `cache.slow_waits`. Whoever waits is answered after `PATIENCE`
        seconds, as not everybody can be killed while the kernel waits for the answer: let in beyond what
        should be, if memory and journal can bear it. How long a rebase takes is not bounded."""
        await self._found_room(need, size)
        while self._ledger.standing.is_still:
            await self.moving()
            await self._found_room(need, size)

    async def moving(self) -> None:
        """Return in a turn in which no change waits for a rebase. `AbandonedError` as of `room`."""
        while self._ledger.standing.is_still:
            with self._slow_waits.wait():
                await self._ledger.standing.moving()

    async def _found_room(self, need: Need, size: int) -> None:
        self.check_writable()
        self._put_off.delete_for_room()
        if self._trimming.is_crowded:
            await self._trimming.relieve()
            self.check_writable()
        if self._publisher.pressure.is_over(_WAIT[need]):
            await self._wait_for_publisher(need)
        if not self._ledger.has_local_room(need):
            raise NoSpaceLeftError(
                f"the disk that holds {os.path.dirname(self._namespace.path)} is nearly full: make room there"
            )
        if not self._ledger.room.allows(need, size):
            await self._make_room(need, size)

    def has_to_wait(self, need: Need) -> bool:
        """Whether `room` would wait for the publisher, or for a rebase."""
        return self._ledger.standing.is_still or self._publisher.pressure.is_over(_WAIT[need])

    @property
    def is_writable(self) -> bool:
        """Whether anything can be changed."""
        return not (self.read_only or self.closing or self._publisher.fenced)

    def check_writable(self) -> None:
        """`FileSystemError` if nothing can be changed any more."""
        if self.read_only:
            raise ReadOnlyFileSystemError("the drive is mounted read-only")
        if self._publisher.fenced:
            raise ReadOnlyFileSystemError(self._publisher.problem)
        if self.closing:
            raise InputOutputError("the drive is being closed")

    async def _wait_for_publisher(self, need: Need) -> None:
        """The journal or memory is full: until there is less in it."""
        publisher = self._publisher
        with trio.move_on_after(PATIENCE):
            while publisher.pressure.is_over(_WAIT[need]):
                publisher.wake()
                if publisher.refusal is not None and need is not Need.FREE:
                    raise type(publisher.refusal)(publisher.problem)
                await self._wait_for_news()
        self.check_writable()
        if publisher.pressure.is_over(_WAIT[need] + 1):
            raise NoSpaceLeftError(publisher.problem or "the journal is full, and storing it takes long")

    async def _make_room(self, need: Need, size: int) -> None:
        """Have what was accepted stored, which may take less than it seemed, and the nodes measured."""
        room = self._ledger.room
        helps = int(room.could_allow(need, size))
        room.waiting += helps
        try:
            with trio.move_on_after(PATIENCE):
                while not room.allows(need, size) and self._may_find_room(need, size):
                    room.look_soon()
                    self.wake()
                    await self._wait_for_news()
        finally:
            room.waiting -= helps
        self.check_writable()
        if not room.allows(need, size):
            raise DriveFullError("the drive is full: delete something and give its space back (drivefs gc)")

    def _may_find_room(self, need: Need, size: int) -> bool:
        room = self._ledger.room
        if room.is_known(need, size, trio.current_time()):
            return False
        return room.unstored <= 0 or not self._publisher.problem

    async def _wait_for_news(self) -> None:
        with self._slow_waits.wait():
            async with self._ledger.freed:
                await self._ledger.freed.wait()
        self.check_writable()

    async def accept_together(self, make: Callable[[], list[Operation]], need: Need = Need.CHANGE) -> None:
        """All that `make` gives, in one commit, or nothing of it, also after a crash. `make` is called when
        there is room, and decides on the state that it then finds: what it raises is raised, and nothing
        has changed. `NoSpaceLeftError`: the same."""
        await self.room(need)
        self._ledger.accept_all(make())
        self.wake()

    def allocate_number(self) -> int:
        """A new inode number, for `accept_together`."""
        return self._namespace.allocate_inode()
