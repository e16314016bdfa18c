"""Walks of whole drives on one log: several programs (`Program`) use each of several devices at once, while
lines are cut, answers get lost, and devices are killed and come back.

A seed decides the calls and the kills. The turns in which they meet are others in each run, as threads take
part: a seed that fails is run some times more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest
import trio

from backend.buffer import Buffer
from backend.errors import TransientError
from backend.failpoints import Failpoints
from backend.system import Durable, Environment
from cache.drive import Drive
from cache.namespace.check import breaches
from cache.sync import rebaser
from tests.changing_disk import ChangingDisk
from tests.drives import tree
from tests.memory_hub import Line
from tests.sync.concurrent_programs import Life, Program, World
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import KILLED_AT, KilledError, same_everywhere, suppress_killed

LIVES: Final = 3
PROGRAMS: Final = 3
"""That use a device at once."""
LONGEST_LIFE: Final = 0.8
"""Seconds, of a device that is killed from outside."""
PATIENCE: Final = 120.0
"""Seconds, after which a walk is stuck."""


class DeadDisk(Durable):
    """Of a device that was killed: what its tasks still do before they end changes nothing."""

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        raise KilledError

    def truncate(self, descriptor: int, size: int) -> None:
        raise KilledError

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        raise KilledError

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        raise KilledError

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        raise KilledError


class Machine:
    """What one life of a device runs on. It may be killed at a failpoint, which is chosen."""

    def __init__(self, random: Random) -> None:
        self.line = Line()
        self.disk = ChangingDisk()
        failpoints = Failpoints()
        if random.random() < 0.4:
            name, skip = random.choice(KILLED_AT)
            failpoints.arm(name, self._kill, skip + random.randrange(20))
        self.environment = Environment(disk=self.disk, failpoints=failpoints)

    def _kill(self) -> None:
        """In whatever thread."""
        self.disk.behind = DeadDisk()
        self.line.cut_in_thread()
        raise KilledError

    @property
    def is_dead(self) -> bool:
        """Whether it was killed at the failpoint."""
        return isinstance(self.disk.behind, DeadDisk)


async def walk(folder: Path, seed: int, count: int) -> Counter[str]:
    """One walk, of so many devices; how often what was met. In half of them all rebases are made aside."""
    world = World(Hub(folder), seed)
    with pytest.MonkeyPatch.context() as patch, trio.fail_after(PATIENCE):
        if seed % 4 >= 2:
            patch.setattr(rebaser, "STEP", -1)
        async with trio.open_nursery() as nursery:
            for device in range(1, count + 1):
                nursery.start_soon(_live, world, device)
        await _check(world, count)
    return world.met


async def _live(world: World, device: int) -> None:
    """A device lives, is killed or ends, and lives again."""
    for number in range(LIVES):
        random = Random(f"{world.seed} {device} {number}")
        machine, is_cut_off = Machine(random), random.random() < 0.5
        seconds = random.random() * LONGEST_LIFE if is_cut_off else PATIENCE
        with suppress_killed(), _opening(world):
            async with world.hub.device(
                device, crash=is_cut_off, environment=machine.environment, line=machine.line
            ) as drive:
                await _use(Life(world, device, drive, machine.line), random, seconds)
        how = "killed at a failpoint" if machine.is_dead else "killed" if is_cut_off else "ended"
        world.met[how] += 1


@contextmanager
def _opening(world: World) -> Iterator[None]:
    """A mount is refused if the answer to its enrolment is lost."""
    try:
        yield
    except TransientError:
        world.met["refused"] += 1


async def _use(life: Life, random: Random, seconds: float) -> None:
    """Programs use the device until they end, for so many seconds at most."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as weather:
            weather.start_soon(_weather, life, random)
            async with trio.open_nursery() as nursery:
                for number in range(PROGRAMS):
                    program = Program(life, number, Random(random.random()))
                    nursery.start_soon(program.run)
            weather.cancel_scope.cancel()


async def _weather(life: Life, random: Random) -> None:
    """The line is cut now and then, an answer is lost, the namespace is saved."""
    while True:
        await trio.sleep(random.random() * 0.1)
        match random.choice(["line", "answer", "save", "save"]):
            case "line":
                life.line.cut()
                await trio.sleep(random.random() * 0.2)
                life.line.mend()
            case "answer":
                life.world.hub.upstream.fail_after_append = True
            case "save":
                life.drive.tick(-1)


async def _check(world: World, count: int) -> None:
    """All devices have the same, and what is kept is there, also when what was released is gone."""
    upstream = world.hub.upstream
    upstream.fail_after_append = False
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(world.hub.device(1 + each)) for each in range(count)]
        found = await same_everywhere(world.hub, *devices)
        for drive in devices:
            await _check_namespace(drive)
    world.kept.check_all(found)
    upstream.collect(0)
    async with world.hub.device(50) as another:
        assert await tree(another) == found


async def _check_namespace(drive: Drive) -> None:
    while (synced := drive.ledger.rebase_synced) is not None:
        await synced.wait()  # nothing is saved before
    drive.ledger.save()
    connection = drive.ledger.namespace.synced_connection()
    found = [*breaches(connection, published=not drive.ledger.unpublished)]
    assert found == [], found
