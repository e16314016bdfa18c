"""One life of a drive that goes through every failpoint, and what one of them does to it.

`begin` makes a drive with a past, of which some is to be forgotten, and leaves it as a killed process does.
`live` is run in a process of its own: it takes the lease over, changes files, scrubs, repairs, makes a
snapshot, collects, loses its cache and goes on from the nodes. Meanwhile it keeps a log of what was
begun, done and made durable, in numbers of `tests.crash.steps`. `Log` reads it.

The whole life runs on `LossyDurable`, so that a power cut takes what was not synced, of the nodes, of the
journal and of the databases.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from backend import failpoints
from backend.errors import DriveError
from backend.system import THIS_MACHINE, Environment
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import Policy
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.crash.steps import CHANGES, STATES, state_of
from tests.drives import QUIET, make_file
from tests.small_drive import SmallDrive
from tools import drive_opening

FAULTS: Final = ("kill", "eio", "enospc", "power")
LIE: Final = "power cut on a disk that lies"
"""Not in the table: with it the checks must fail."""
TIMES: Final = 12
"""How often a step fails before it succeeds again."""
OPTIONS: Final = replace(QUIET, journal_size=1 << 20)
NOTHING: Final = Policy(0, 0, 0, 0, 0)
ENDED: Final = 0
Refused = (OSError, FileSystemError, DriveError)


@asynccontextmanager
async def opened(drive: SmallDrive, environment: Environment = THIS_MACHINE) -> AsyncIterator[Drive]:
    """As a mount has it."""
    opening = drive_opening.opened_drive(drive.unlocked(), drive.own(), OPTIONS, environment=environment)
    async with opening as found, trio.open_nursery() as nursery:
        await nursery.start(found.run)
        yield found
        nursery.cancel_scope.cancel()


# The past


async def rewrite(drive: Drive, name: bytes, data: bytes) -> None:
    """Write new, rename over."""
    made = await make_file(drive, b"new", data)
    await drive.rename(ROOT_INODE, b"new", ROOT_INODE, name)
    drive.release(made.inode, 0)


async def make_past(drive: Drive) -> None:
    """Commits whose packs die wholly, or in part; at the end nothing is in the root folder."""
    source = random.Random(7)
    for number in range(1, 7):
        await rewrite(drive, b"each", source.randbytes(20_000))
        if number % 2:
            await rewrite(drive, b"other", source.randbytes(30_000))
        await drive.sync()
    drive.retention.pin(b"three", 3)
    drive.retention.set_policy(NOTHING)
    for name in (b"each", b"other"):
        await drive.unlink(ROOT_INODE, name)
    await drive.sync()
    await drive.snapshots.make()


async def _begin(drive: SmallDrive) -> None:
    async with opened(drive) as found:
        await make_past(found)
        _end()


def begin(folder: str) -> None:
    """The first process: it is gone, and has not given back the lease."""
    trio.run(_begin, SmallDrive(Path(folder), {}))


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spoil(drive: SmallDrive) -> None:
    """Work for scrub, repair and the sweeper: a wrong fragment, a missing one, remains of a pack."""
    fragments = sorted(drive.drive.glob("node*/packs/*/*"))
    packs = sorted({path.name.rpartition(".")[0] for path in fragments})
    wrong = next(path for path in fragments if packs[0] in path.name)
    data = bytearray(wrong.read_bytes())
    data[len(data) // 2] ^= 1
    wrong.write_bytes(data)
    next(path for path in fragments if packs[-1] in path.name).unlink()
    for number in range(3):
        name = f"ab{number:02x}" + "cd" * 14
        folder = drive.drive / f"node{number}" / "packs" / "ab"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.{number}").write_bytes(b"remains")


# What one process does, and tells


class Log:
    """What happened, in numbers of changes: each line is flushed to the kernel before the life goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def say(self, kind: str, number: int) -> None:
        """`begun`, `done`: change `number`; `durable`: so many changes are."""
        os.write(self._descriptor, f"{kind} {number}\n".encode())


@dataclass(frozen=True, slots=True)
class Told:
    """The log, read: how many changes were begun, returned, and were durable."""

    begun: int = 0
    done: int = 0
    durable: int = 0

    @classmethod
    def read(cls, path: Path) -> Told:
        lines = [line.split() for line in path.read_text().splitlines()]
        highest = {kind: max((int(n) for k, n in lines if k == kind), default=0) for kind in cls.__slots__}
        return cls(**highest)


class Life:
    """See the module. `patient`: what is refused is tried again, or left."""

    def __init__(self, drive: SmallDrive, environment: Environment, log: Log, patient: bool) -> None:
        self._drive = drive
        self._environment = environment
        self._log = log
        self._patient = Refused if patient else ()
        self._next = 0

    async def run(self) -> None:
        await self._in_a_mount(self._first)
        if self._next == len(CHANGES) * 3 // 4 and Told.read(self._log.path).durable == self._next:
            self._drive.forget()
            await self._in_a_mount(self._second)

    async def _in_a_mount(self, work: Callable[[Drive], Awaitable[None]]) -> None:
        """Do the work with the drive open. An opening that fails is tried once more."""
        for _ in range(2):
            with suppress(*self._patient):
                async with AsyncExitStack() as stack:
                    drive = await stack.enter_async_context(opened(self._drive, self._environment))
                    await work(drive)
                return

    async def _first(self, drive: Drive) -> None:
        await self._change(drive, len(CHANGES) // 4)
        assert drive.health is not None
        await self._try(scrubbing(drive))
        await self._try(drive.health.repair)
        await self._sync(drive)
        await self._change(drive, len(CHANGES) // 2)
        await self._sync(drive)
        await self._try(drive.snapshots.make)
        await self._try(lambda: drive.retention.collect(grace=0))
        await self._change(drive, len(CHANGES) * 3 // 4)
        await self._sync(drive)
        await self._try(drive.trimming.trim)

    async def _second(self, drive: Drive) -> None:
        await self._change(drive, len(CHANGES))
        await self._sync(drive)

    async def _try(self, work: Callable[[], Awaitable[object]]) -> bool:
        with suppress(*self._patient):
            await work()
            return True
        return False

    async def _sync(self, drive: Drive) -> None:
        if await self._try(drive.sync) or await self._try(drive.sync):
            self._log.say("durable", self._next)

    async def _change(self, drive: Drive, until: int) -> None:
        """Changes in order up to `until`; every seventh is followed by an fsync. One that was refused has
        happened or not: the drive says which."""
        refusals = 0
        while self._next < until and refusals < 2 * TIMES:
            self._log.say("begun", self._next + 1)
            if await self._try(lambda: CHANGES[self._next][0](drive)):
                self._next += 1
                self._log.say("done", self._next)
            else:
                refusals += 1
                self._next += await self._has_happened(drive, self._next + 1)
            if self._next % 7 == 0:
                await self._fsync(drive)

    async def _has_happened(self, drive: Drive, number: int) -> bool:
        with suppress(*self._patient):
            return await state_of(drive) == STATES[number]
        return False

    async def _fsync(self, drive: Drive) -> None:
        entries = drive.entries(ROOT_INODE, 0, 1)
        if entries and await self._try(lambda: drive.fsync(entries[0].attributes.inode)):
            self._log.say("durable", self._next)


def scrubbing(drive: Drive) -> Callable[[], Awaitable[object]]:
    """Scrub to the end, unless the scrub itself is what fails: it would go on later."""

    async def scrub() -> None:
        assert drive.health is not None
        with trio.move_on_after(3):
            await drive.health.scrub(wait=True)

    return scrub


# The fault


class Failure:
    """The step fails some times, then goes well."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._left = TIMES

    def __call__(self) -> None:
        if self._left:
            self._left -= 1
            raise OSError(self._number, os.strerror(self._number))


def live(folder: str, name: str, fault: str, skip: int, seed: int) -> None:
    """The process: ends with code 0, or by SIGKILL where the failpoint is."""
    logging.getLogger().addHandler(logging.NullHandler())
    path = Path(folder)
    disk = LossyDurable(random.Random(seed), path / "kept", lies=fault == LIE)

    def cut() -> None:
        cut_all(disk, path / "drive", path / "cache", path / "state")
        _end()

    actions: dict[str, failpoints.Action] = {
        "eio": Failure(errno.EIO),
        "enospc": Failure(errno.ENOSPC),
        "power": cut,
        LIE: cut,
    }
    os.environ["DRIVEFS_FAILPOINTS_SEEN"] = str(path / "seen")
    with all_lossy(disk) as device:
        for each in failpoints.FAILPOINTS if fault == "count" else [name]:
            device.failpoints.arm(each, actions.get(fault, fault), skip)
        life = Life(SmallDrive(path, {}), device, Log(path / "log"), patient=fault in ("eio", "enospc"))
        trio.run(life.run)
        os._exit(ENDED)
