"""Waiting for the next commit of drives, of whichever hub process took it, while the device may wait.

An append of this process wakes the waiting devices at once. Appends of other processes are found by a *look*:
one query for the heads of all drives that somebody waits for. A look begins `_LOOK` seconds after the one
before, or later where looks take long. So no commit is missed, whatever process dies. Every `_DEVICES`
seconds a look also asks whether the waiting devices may still wait; a revocation in this process has that
asked at once. A commit wakes the devices that wait for its drive and no others, of which there are thousands.
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio

from backend.errors import NotFoundError, TransientError
from backend.hub.database import Database
from backend.hub.polling_time import PollingTime

_LOOK: Final = 0.05
_PAUSE: Final = 1.0
"""Seconds after a look that failed, and at most after one that took long."""
_SHARE: Final = 0.1
"""Looking takes this part of the time, at most: with thousands of drives a look is no small thing."""
_DEVICES: Final = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Poll:
    """One that waits. `woken`: one of its drives has a newer head, or its device has ended."""

    device: int
    drives: Mapping[int, int]
    woken: anyio.Event = field(default_factory=anyio.Event)


class Heads:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_drive: defaultdict[int, set[_Poll]] = defaultdict(set)
        self._by_device: defaultdict[int, set[_Poll]] = defaultdict(set)
        self._ended: set[int] = set()
        self._devices_due = 0.0
        self._known: dict[int, int] = {}
        self._some_wait = anyio.Event()
        self.time: Final = PollingTime()
        """that polls have; it ends before the process does"""

    @property
    def polls(self) -> int:
        """The number of those who wait. Any thread may ask: the copy is made in one step."""
        return sum(map(len, list(self._by_device.values())))

    def moved(self, drive: int, number: int) -> None:
        """A drive's head is that commit, or a later one. Nothing is kept of one that nobody waits for."""
        if drive in self._by_drive and number > self._known.get(drive, -1):
            self._known[drive] = number
            for poll in self._by_drive[drive]:
                if number > poll.drives[drive]:
                    poll.woken.set()

    def look_at_devices(self) -> None:
        """Some of them may have ended: they are looked at with the next look."""
        self._devices_due = 0.0

    async def wait(self, device: int, drives: Mapping[int, int], seconds: float) -> dict[int, int]:
        """The heads of those drives whose head is newer than said, as soon as there is one; empty when the
        time is over. At once those whose head is older: a database that was restored lost what the device
        has seen. `NotFoundError`: the device was revoked meanwhile, or its account is locked or ended.
        Whoever waits no longer is to cancel this."""
        poll = _Poll(device, drives)
        self._enter(poll)
        try:
            with self.time.of(seconds):
                # A query that is given up in its middle costs the connection: it is short, and goes on.
                with anyio.CancelScope(shield=True):
                    heads = await self._look(list(drives))
                if older := {drive: head for drive, head in heads.items() if head < drives[drive]}:
                    return older
                while not (newer := self._newer(drives)):
                    await poll.woken.wait()
                    if device in self._ended:
                        raise NotFoundError("no device has this token any more")
                return newer
            return {}
        finally:
            self._leave(poll)

    def _enter(self, poll: _Poll) -> None:
        self._by_device[poll.device].add(poll)
        for drive in poll.drives:
            self._by_drive[drive].add(poll)
        self._some_wait.set()

    def _leave(self, poll: _Poll) -> None:
        for drive in poll.drives:
            self._by_drive[drive].discard(poll)
            if not self._by_drive[drive]:
                del self._by_drive[drive]
                self._known.pop(drive, None)
        self._by_device[poll.device].discard(poll)
        if not self._by_device[poll.device]:
            del self._by_device[poll.device]
            self._ended.discard(poll.device)

    def _newer(self, drives: Mapping[int, int]) -> dict[int, int]:
        return {
            drive: self._known[drive]
            for drive, number in drives.items()
            if self._known.get(drive, 0) > number
        }

    async def run(self) -> None:
        """Look for commits of other processes, for ever."""
        while True:
            if not self._by_drive:
                self._some_wait = anyio.Event()
                await self._some_wait.wait()
            began = anyio.current_time()
            try:
                await self._look(list(self._by_drive))
                await self._look_at_devices()
                pause = pause_after(anyio.current_time() - began)
            except TransientError as error:
                log.info("heads cannot be looked at now: %s", error)
                pause = _PAUSE
            await anyio.sleep(pause)

    async def _look(self, drives: list[int]) -> dict[int, int]:
        rows = await self._database.rows("SELECT id, head FROM drive WHERE id = ANY(%s)", (drives,))
        for drive, head in rows:
            self.moved(drive, head)
        return dict(rows)

    async def _look_at_devices(self) -> None:
        """If they are due."""
        now = anyio.current_time()
        if now < self._devices_due:
            return
        self._devices_due = now + _DEVICES
        devices = [*self._by_device]
        rows = await self._database.rows(
            "SELECT d.id FROM device d JOIN account a ON a.id = d.account"
            " WHERE d.id = ANY(%s) AND d.revoked IS NULL AND a.locked IS NULL",
            (devices,),
        )
        ended = {*devices} - {row[0] for row in rows}
        for device in ended & self._by_device.keys():
            self._ended.add(device)
            for poll in self._by_device[device]:
                poll.woken.set()


def pause_after(seconds: float) -> float:
    """Between a look that took so long and the next one."""
    return min(max(_LOOK, seconds / _SHARE - seconds), _PAUSE)
