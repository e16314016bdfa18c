"""The broadcast of changes: doors hear what has changed in the drive by other doors.

A door may remember names, attributes and contents. It has to hear when they change, unless its own callers
changed them: of those it knows. Listeners are the kernel's door, the control socket, later doors.

Invariants:
1. A listener is told everything that is announced while it listens, in this order; with several calls at
   once they begin in this order. It is told after the change: what it asks of the drive then is at least as
   new.
2. No listener disturbs another one or the announcer. Each has a queue and tasks of its own; what it raises
   is logged; an announcer waits `PATIENCE` seconds at most.
3. Each queue is bounded. A listener that is too slow loses what waited, and is told `Missed` in its place.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

PATIENCE: Final = 5.0
LIMIT: Final = 1024
"""So many announcements wait for one listener at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NameChanged:
    """The name in the directory `parent` is of another inode now, or of none, or was of none."""

    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class AttributesChanged:
    """stat(2), an extended attribute or a list of access of the inode gives something else."""

    inode: int


@dataclass(frozen=True, slots=True)
class ContentChanged:
    """The file has other bytes, and other attributes with them."""

    inode: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Changes that this listener was not told of: anything may be another one."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A state of the drive that others' commits have taken the place of. Nobody has what it was of `inodes`
    but the past as of the commit `base`, or, by `became`, another inode (0: nobody)."""

    base: int
    inodes: frozenset[int]
    became: Mapping[int, int]


class Onlooker(Protocol):
    """A door whose callers may be in the middle of something while others' commits are applied."""

    def before(self) -> None:
        """The drive is about to show another state."""

    def after(self, replaced: Replaced) -> None:
        """It does; nobody has seen it yet."""


Change = NameChanged | AttributesChanged | ContentChanged | Missed
Listener = Callable[[Sequence[Change]], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Announcement:
    changes: Sequence[Change]
    heard: trio.Event = field(default_factory=trio.Event)


class _Queue:
    """The changes that one listener is still to be told."""

    def __init__(self, name: str, listener: Listener) -> None:
        self._name = name
        self._listener = listener
        self._waiting: deque[_Announcement] = deque()
        self._news = trio.Event()

    def put(self, announcement: _Announcement) -> list[trio.Event]:
        """Have it told; what is set when the listener knows of it, and of what it misses from now on."""
        told = [announcement]
        if len(self._waiting) >= LIMIT:
            log.warning("%s does not keep up with the changes of the drive", self._name)
            self.clear()
            told.insert(0, _Announcement([Missed()]))
        self._waiting.extend(told)
        self._news.set()
        return [each.heard for each in told]

    def clear(self) -> None:
        """Nobody waits for what was not told."""
        while self._waiting:
            self._waiting.popleft().heard.set()

    async def work(self) -> None:
        """Tell the listener, for ever."""
        while True:
            while not self._waiting:
                if self._news.is_set():
                    self._news = trio.Event()
                await self._news.wait()
            await self._tell(self._waiting.popleft())

    async def _tell(self, announcement: _Announcement) -> None:
        try:
            await self._listener(announcement.changes)
        except Exception:
            log.exception("%s was not told of a change", self._name)
        finally:
            announcement.heard.set()


class Broadcast:
    """See the module."""

    def __init__(self) -> None:
        self._queues: list[_Queue] = []
        self.onlookers: list[Onlooker] = []
        """called in the turn in which others' commits are applied; none may raise"""
        self._unheard: list[trio.Event] = []

    async def serve(
        self,
        name: str,
        listener: Listener,
        at_once: int = 1,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Tell `listener` of all that is announced from now on, until cancelled, in `at_once` calls at a
        time. `name` is for people."""
        queue = _Queue(name, listener)
        self._queues.append(queue)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(queue.work)
                task_status.started()
        finally:
            self._queues.remove(queue)
            queue.clear()

    def announce(self, changes: Sequence[Change]) -> list[trio.Event]:
        """Have every listener told. At once; what is set when each was, or is not told any more."""
        announcements = [_Announcement(changes) for _ in self._queues]
        for queue, announcement in zip(self._queues, announcements, strict=True):
            self._unheard += queue.put(announcement)
        self._unheard = [event for event in self._unheard if not event.is_set()]
        return [announcement.heard for announcement in announcements]

    async def tell(self, changes: Sequence[Change]) -> None:
        """The same; returns when each listener was told, or after `PATIENCE` seconds."""
        heard = self.announce(changes)
        await trio.lowlevel.checkpoint()
        await _all_of(heard)

    async def settled(self) -> None:
        """Return when each listener was told all that was announced before, or that it missed it, or after
        `PATIENCE` seconds."""
        await _all_of([event for event in self._unheard if not event.is_set()])


async def _all_of(heard: Sequence[trio.Event]) -> None:
    if not heard:
        return
    with trio.move_on_after(PATIENCE):
        for event in heard:
            await event.wait()
