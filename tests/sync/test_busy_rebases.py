"""Whole drives that are changed while their rebases are made aside: at random, killed, without power."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import trio

from backend.failpoints import Failpoints
from backend.system import Environment
from cache import opening
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.journal import rebasing
from cache.local.local_state import LocalState
from cache.namespace import Namespace, Shadow
from cache.namespace.operations import ROOT_INODE
from cache.rebase import OvertakenError, Tail
from cache.sync import rebaser
from tests.drives import content_of, make_file
from tests.sync import drives, test_random_drives
from tests.sync.drives import Hub
from tests.sync.test_power_cuts import (
    test_what_was_synced_outlives_a_power_cut_among_others as outlives_power_cuts,
)
from tests.sync.test_random_drives import Walk
from tests.sync.test_random_drives import test_drives_that_do_anything_converge as drives_converge
from tests.sync.test_rebases_aside import KILLED_AT
from tests.sync.test_whole_drives import (
    StillHub,
    begin,
    change_here,
    change_there,
    go_on,
    kill,
    names,
    same_everywhere,
    suppress_killed,
)

STEPS: Final = 4
"""Things that a device does after each part of a rebase that is made in a thread, at most."""


class BusyWalk(Walk):
    """What may be done while the publisher waits for a rebase."""

    def __init__(self, drive: Drive, random: Random) -> None:
        super().__init__(drive, random)
        self.held: list[int] = []

    async def step(self) -> None:
        names = [self._create, self._mkdir, self._unlink, self._rmdir, self._rename, self._rename, self._link]
        files = [self._write, self._write, self._truncate, self._fsync, self._open, self._close, self._set]
        with suppress(FileSystemError):
            await self._random.choice([*names, *files, self._tick])()

    async def _open(self) -> None:
        _, _, inode = self._pick()
        if inode:
            self._drive.hold(inode)
            self.held.append(inode)

    async def _close(self) -> None:
        if self.held:
            self._drive.release(self.held.pop())

    async def _set(self) -> None:
        _, _, inode = self._pick()
        if self._random.random() < 0.3:
            await self._drive.set_xattr(inode, b"user.a", self._bytes()[:20])
        else:
            await self._drive.set_attributes(inode, AttributeChange(mode=self._random.randrange(0o1000)))

    async def _tick(self) -> None:
        self._drive.tick(-1)


class Busy:
    """Rebases during which something is done on the drive: `step`, after each part that a thread made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Callable[[Drive], Awaitable[None]]) -> None:
        self._step = step
        self._drives: dict[str, Drive] = {}
        self._is_over = False
        """whether nothing is to be done any more"""
        self.done: Counter[str] = Counter()
        """how often a shadow took the namespace's place, and its tail was overtaken"""
        self._run, self._open, self._take, self._take_place = (
            Shadow.run,
            opening.open_drive,
            Tail.take,
            Namespace.take_place,
        )
        monkeypatch.setattr(Shadow, "run", lambda shadow, work: self._run_busily(shadow, work))
        monkeypatch.setattr(Tail, "take", lambda *arguments: self._note_taken(*arguments))
        monkeypatch.setattr(Namespace, "take_place", lambda *arguments: self._note_place(*arguments))
        monkeypatch.setattr(drives, "open_drive", self._opened)
        monkeypatch.setattr(test_random_drives, "same_everywhere", self._same_everywhere)
        monkeypatch.setattr(rebaser, "STEP", -1)
        monkeypatch.setattr(rebasing, "FEW_CHANGES", 1)

    async def _opened(self, local: LocalState, *arguments: Any) -> Drive:
        self._drives.pop(local.namespace.path, None)
        drive = await self._open(local, *arguments)
        self._drives[drive.ledger.namespace.path] = drive
        return drive

    def _run_busily(self, shadow: Shadow[Namespace], work: Callable[[], Any]) -> Any:
        made = self._run(shadow, work)
        drive = self._drives.get(shadow.namespace.path)
        if drive is not None and threading.current_thread() is not threading.main_thread():
            trio.from_thread.run(self._do, drive)
        return made

    async def _same_everywhere(self, *arguments: Any) -> dict[bytes, tuple[object, ...]]:
        self._is_over = True
        return await same_everywhere(*arguments)

    async def _do(self, drive: Drive) -> None:
        if not (drive.ledger.standing.is_still or self._is_over):
            await self._step(drive)

    def _note_taken(self, *arguments: Any) -> None:
        try:
            self._take(*arguments)
        except OvertakenError:
            self.done["overtaken"] += 1
            raise

    def _note_place(self, *arguments: Any) -> None:
        self.done["taken"] += 1
        self._take_place(*arguments)


@pytest.fixture
def random_steps(monkeypatch: pytest.MonkeyPatch) -> Busy:
    """Anything is done during each rebase, now and then with a file open."""
    random, walks = Random(0), dict[Drive, BusyWalk]()

    async def step(drive: Drive) -> None:
        walk = walks.setdefault(drive, BusyWalk(drive, random))
        for _ in range(random.randrange(STEPS)):
            await walk.step()

    return Busy(monkeypatch, step)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(40, 46))
async def test_drives_that_do_anything_meanwhile_converge(
    tmp_path: Path, seed: int, random_steps: Busy
) -> None:
    await drives_converge(tmp_path, seed)
    assert random_steps.done["taken"]


LATE: Final = b"late" * 1000
MOST: Final = 20
"""Files that are made meanwhile."""


async def tail(drive: Drive) -> None:
    """Changes of each kind, which nobody else makes; synced."""
    if b"late" not in names(drive):
        await make_file(drive, b"early", LATE)
        await drive.rename(ROOT_INODE, b"early", ROOT_INODE, b"late")
        inode = drive.lookup(ROOT_INODE, b"h").inode
        await drive.write(inode, 0, LATE)
        await drive.link(inode, ROOT_INODE, b"h2")
        await drive.unlink(ROOT_INODE, b"h")
        await drive.rename(ROOT_INODE, b"h2", ROOT_INODE, b"h")
        await drive.set_attributes(inode, AttributeChange(mode=0o640))
        await drive.fsync(inode)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize(("name", "skip"), [*KILLED_AT, ("journal.appended", 8), ("journal.synced", 0)])
async def test_a_device_that_is_killed_in_a_rebase_that_it_did_not_wait_for_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, skip: int, is_after: bool
) -> None:
    """Killed among the changes, or after they were synced. Then they are there."""
    hub, failpoints, synced = Hub(tmp_path, StillHub()), Failpoints(), 0

    async def changes(drive: Drive) -> None:
        nonlocal synced
        if not is_after:
            failpoints.arm(name, kill, skip)
        await tail(drive)
        synced += 1
        if is_after:
            failpoints.arm(name, kill, skip)

    busy = Busy(monkeypatch, changes)
    await begin(hub)
    with suppress_killed():
        async with hub.device(2, crash=True, environment=Environment(failpoints=failpoints)) as second:
            await change_here(second)
            second.tick(-1)
            await change_there(hub)
            await second.sync()
    await go_on(hub)
    assert failpoints.hits[name]
    assert not busy.done["overtaken"]
    if is_after:
        assert synced
    if synced:
        await check_tail(hub)


async def check_tail(hub: Hub) -> None:
    async with hub.device(2) as second:
        inode = second.lookup(ROOT_INODE, b"h").inode
        assert await content_of(second, b"late") == LATE
        assert await content_of(second, b"h") == LATE
        assert second.attributes(inode).mode & 0o777 == 0o640
        assert not {b"early", b"h2"} & {*names(second)}


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(2))
async def test_what_was_synced_meanwhile_outlives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    synced: list[bytes] = []
    numbers = itertools.count()

    async def step(drive: Drive) -> None:
        for name in synced:
            assert await content_of(drive, name) == LATE + name
        if len(synced) < MOST:
            name = b"meanwhile %d" % next(numbers)
            made = await make_file(drive, name, LATE + name)
            await drive.fsync(made.inode)
            synced.append(name)

    busy = Busy(monkeypatch, step)
    await outlives_power_cuts(tmp_path, seed)
    assert len(synced) > 1
    assert busy.done["taken"]
