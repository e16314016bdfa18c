"""The world of the simulator: voters in memory, and links to them that delay, lose, and answer from the past.

A `Voter` is what a store really holds, with what it held before. A `Link` is one client's way to one voter: a
`backend.nodes.Node` whose every call draws its fate from the seed. Time is trio's mock clock: nothing waits.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from backend.buffer import Buffer
from backend.errors import ConflictError, DriveError, NodeError, NotFoundError, TransientError
from backend.nodes import Space
from backend.nodes.node import PAGE, ObjectState

Result = TypeVar("Result")

FAULTS: Final = (
    "delay",
    "lost request",
    "lost answer",
    "late write",
    "late get",
    "late list",
    "node away",
    "torn writer",
    "stopped writer",
    "clone",
    "map change",
)
"""The kinds of faults that a run may meet; `Chances.met` counts them."""


@dataclass
class Chances:
    """How likely each kind of fault is for one call, and how often it was met."""

    draw: random.Random
    likely: dict[str, float]
    met: Counter[str] = field(default_factory=Counter)

    def strikes(self, kind: str) -> bool:
        """Whether this fault happens now."""
        happens = self.draw.random() < self.likely.get(kind, 0.0)
        if happens:
            self.met[kind] += 1
        return happens


class Voter:
    """What one node holds, and what it held."""

    def __init__(self, name: str, zone: str) -> None:
        self.name = name
        self.zone = zone
        self.objects: dict[str, bytes] = {}
        self._times: dict[str, list[float]] = {}
        self._states: dict[str, list[bytes | None]] = {}

    def set(self, key: str, data: bytes | None) -> None:
        """Replace or remove an object."""
        self._times.setdefault(key, []).append(trio.current_time())
        self._states.setdefault(key, []).append(data)
        if data is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = data

    def state_at(self, key: str, time: float) -> bytes | None:
        """What it held at `time`."""
        at = bisect_right(self._times.get(key, []), time)
        return self._states[key][at - 1] if at else None

    def keys_at(self, prefix: str, time: float) -> list[str]:
        """What it would have listed at `time`."""
        return sorted(
            key for key in self._times if key.startswith(prefix) and self.state_at(key, time) is not None
        )


class Link:
    """One client's way to one voter. At each call `away` says whether it answers, `behind` by how many
    seconds what it reads is late. `background` outlives the client."""

    def __init__(
        self,
        voter: Voter,
        chances: Chances,
        background: trio.Nursery,
        away: Callable[[str], bool],
        behind: Callable[[], float],
    ) -> None:
        self._voter = voter
        self._chances = chances
        self._background = background
        self._away = away
        self._behind = behind

    @property
    def name(self) -> str:
        return self._voter.name

    @property
    def zone(self) -> str:
        return self._voter.zone

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)
        await self._write(lambda: self._voter.set(key, data))

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)

        def apply() -> None:
            if key in self._voter.objects:
                raise ConflictError(f"{self.name}: {key} exists")
            self._voter.set(key, data)

        await self._write(apply)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        def apply() -> None:
            if self._voter.objects.get(key) != expected:
                raise ConflictError(f"{self.name}: {key} is not what was expected")
            self._voter.set(key, new)

        await self._write(apply)

    async def delete(self, key: str) -> None:
        await self._write(lambda: self._voter.set(key, None))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        def read() -> bytes:
            if behind := self._behind():
                self._chances.met["late get"] += 1
                data = self._voter.state_at(key, trio.current_time() - behind)
            elif self._chances.strikes("late get"):
                data = self._voter.state_at(key, self._earlier())
            else:
                data = self._voter.objects.get(key)
            if data is None:
                raise NotFoundError(f"{self.name}: no {key}")
            return data[offset:] if length is None else data[offset : offset + length]

        return await self._read(read)

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        return None

    async def state(self, key: str) -> ObjectState:
        return ObjectState(len(await self.get(key)))

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        def read() -> list[str]:
            late = self._chances.strikes("late list")
            found = self._voter.keys_at(prefix, self._earlier() if late else trio.current_time())
            return [key for key in found if key > after][:limit]

        return await self._read(read)

    async def space(self) -> Space:
        return Space(1 << 40, 1 << 40)

    async def check(self) -> None:
        await self._read(lambda: None)

    async def tidy(self) -> None:
        await self.check()

    def _earlier(self) -> float:
        return trio.current_time() - self._chances.draw.uniform(0, 60)

    async def _travel(self) -> None:
        await trio.sleep(self._chances.draw.random() * 0.05)
        if self._chances.strikes("delay"):
            await trio.sleep(self._chances.draw.choice((0.3, 3.0, 40.0)) * self._chances.draw.random())

    def _require_there(self) -> None:
        if self._away(self.name):
            self._chances.met["node away"] += 1
            raise NodeError(f"{self.name} is away", self.name)

    async def _read(self, work: Callable[[], Result]) -> Result:
        await self._travel()
        self._require_there()
        if self._chances.strikes("lost request"):
            raise TransientError(f"{self.name}: no answer")
        return work()

    async def _write(self, apply: Callable[[], None]) -> None:
        await self._travel()
        self._require_there()
        if self._chances.strikes("lost request"):
            raise TransientError(f"{self.name}: no answer")
        if self._chances.strikes("late write"):
            self._background.start_soon(self._land_later, apply, self._chances.draw.uniform(0, 90))
            raise TransientError(f"{self.name}: no answer")
        apply()
        if self._chances.strikes("lost answer"):
            raise TransientError(f"{self.name}: no answer")

    async def _land_later(self, apply: Callable[[], None], seconds: float) -> None:
        await trio.sleep(seconds)
        try:
            apply()
        except DriveError:
            return  # it lost; who sent it was told nothing either way
