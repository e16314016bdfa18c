"""The capacity of the nodes for data, as placement will lay it there. Pure functions.

Each pack puts a fragment on as many different nodes as the profile has fragments. So the smallest of six
nodes limits a drive of six. Of more, the others take over what a full one refuses
(`backend.coding.placement`), until too few have room. This is computed for a sample of packs, as a
flow: nodes fill at the rates at which the sample chooses them; when one is full, the rest is placed anew.

Two ends are told apart. With fewer nodes that have room than the profile has fragments, data is still stored,
but not with all its redundancy. With fewer than the write quorum it is not stored.

Nodes of one file system share its room. A node of which nothing is known (it is away) counts as one that has
room: what it lacks is made up for when it is back, and a drive is not full because a disk died.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backend.coding.erasure import Profile
from backend.coding.placement import ClusterMap, place, stand_ins
from backend.nodes import Space
from backend.upstream import Capacity

SMALLEST_RESERVE: Final = 4 << 20
LARGEST_RESERVE: Final = 256 << 20
_SAMPLE: Final = 128
_SAMPLED_NODES: Final = 4096
_OVERHEAD: Final = 0.99
"""The rest of what fragments take is headers, footers, the packs' indices and half used blocks."""
_BALANCED: Final = 0.8
"""No node limits a drive of which so much can be used."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits, in bytes on each node that is chosen: with all fragments, and at write quorum; and which
    file systems were full when the first of the two ended. Infinite where nothing is known to end it."""

    complete: float
    quorum: float
    exhausted: tuple[str, ...]


def reserve(total: int) -> int:
    """The bytes that are kept back of a file system of `total` bytes, for commits, deleting and rewriting
    packs."""
    return min(max(total >> 5, SMALLEST_RESERVE), LARGEST_RESERVE, total >> 2)


def is_full(space: Space) -> bool:
    """Whether a node is left nothing but its reserve."""
    return space.free <= reserve(space.total)


class CapacityModel:
    """Of one cluster and profile. The sample is drawn once; it is the same for everyone."""

    def __init__(self, cluster: ClusterMap, profile: Profile) -> None:
        self._cluster = cluster
        self._profile = profile
        names = [node.name for node in cluster.nodes if node.weight > 0]
        self._enough = len(names) >= profile.total
        self._names = frozenset(names)
        # With just enough nodes each pack is on all of them.
        count = 1 if len(names) <= profile.total else max(16, min(_SAMPLE, _SAMPLED_NODES // len(names)))
        self._sample = [number.to_bytes(16) for number in range(count)] if self._enough else []
        self._chosen = [place(cluster, each, profile.total) for each in self._sample]

    def capacity(self, spaces: Mapping[str, Space]) -> Capacity | None:
        """Of nodes with this space, by name; None if that of no node that takes data is known."""
        known = {name: space for name, space in spaces.items() if name in self._names}
        if not known or not self._enough:
            return None
        systems = {_system(name, space): space for name, space in known.items()}
        owner = {name: _system(name, space) for name, space in known.items()}

        def fit(share_of_reserve: float, full: bool = False) -> Fit:
            left = {
                system: space.total if full else space.free - share_of_reserve * reserve(space.total)
                for system, space in systems.items()
            }
            return self.fit(owner, left)

        empty, now, beside, into = fit(0, full=True), fit(0), fit(1), fit(0.5)
        return Capacity(
            self._data(empty.complete),
            self._data(now.complete),
            self._data(beside.complete),
            self._data(beside.quorum),
            self._data(into.quorum),
            self._limiting(owner, systems, empty),
        )

    @property
    def write_quorum(self) -> int:
        """On so many nodes everything must be before it counts as stored."""
        return self._profile.write_quorum

    def takers(self, spaces: Mapping[str, Space]) -> int:
        """The number of nodes that are to take new data and of which the space is known; full ones too."""
        return len(self._names & spaces.keys())

    def even(self, spaces: Mapping[str, Space]) -> int:
        """The bytes of data that would fit if the same room lay on nodes of one size."""
        systems = {_system(name, space): space for name, space in spaces.items() if name in self._names}
        share = self._profile.k / self._profile.total
        return int(sum(space.total for space in systems.values()) * share * _OVERHEAD)

    def fit(self, owner: Mapping[str, str], room: Mapping[str, float]) -> Fit:
        """The data that fits where `owner` names each known node's file system, and `room` what each of these
        has."""
        left = dict(room)
        full = {name for name, system in owner.items() if left[system] <= 0}
        laid = 0.0
        complete: Fit | None = None
        for rates, least in self._phases(owner, full):
            if complete is None and least < self._profile.total:
                complete = Fit(laid, laid, _exhausted(left))
            if least < self._profile.write_quorum:
                break
            step = min((max(left[system], 0) / rate for system, rate in rates.items()), default=math.inf)
            laid += step
            if math.isinf(step):
                break
            for system, rate in rates.items():
                left[system] -= rate * step
            nearest = min(rates, key=lambda system: left[system])
            left[nearest] = 0
            full.update(name for name, system in owner.items() if left[system] <= 0)
        if complete is None:
            return Fit(laid, laid, _exhausted(left))
        return Fit(complete.complete, laid, complete.exhausted)

    def _phases(self, owner: Mapping[str, str], full: set[str]) -> Iterator[tuple[dict[str, float], int]]:
        """For each state of `full`, which the caller changes: how much each file system takes of a unit, and
        how many nodes the worst placed pack of the sample finds."""
        while True:
            lying = [self._lying(at, full) for at in range(len(self._sample))]
            takes = Counter(owner[name] for names in lying for name in names if name in owner)
            rates = {system: count / len(lying) for system, count in takes.items()}
            yield rates, min(map(len, lying))

    def _lying(self, at: int, full: Collection[str]) -> list[str]:
        """The nodes on which a pack's fragments come to lie: those that `full` nodes refuse on stand-ins, as
        `backend.packs.pack_store` finds them."""
        nodes, refused = list(self._chosen[at]), set[str]()
        for index in range(len(nodes)):
            while nodes[index] in full:
                refused.add(nodes[index])
                stand_in = self._stand_in(at, nodes, index, refused)
                if stand_in is None:
                    break
                nodes[index] = stand_in
        return [name for name in nodes if name not in full]

    def _stand_in(self, at: int, nodes: Sequence[str], index: int, refused: Collection[str]) -> str | None:
        if len(self._names) == self._profile.total:
            return None
        others = [*nodes[:index], *nodes[index + 1 :]]
        found = stand_ins(self._cluster, self._sample[at], others)
        return next((name for name in found if name not in refused), None)

    def _data(self, laid: float) -> int:
        return int(min(laid * self._profile.k * _OVERHEAD, 1 << 62))

    def _limiting(
        self, owner: Mapping[str, str], systems: Mapping[str, Space], empty: Fit
    ) -> tuple[str, ...]:
        if len(owner) < len(self._names) or not all(space.is_known for space in systems.values()):
            return ()
        room = sum(space.total for space in systems.values())
        if empty.complete * self._profile.total >= _BALANCED * room:
            return ()
        return tuple(name for name, system in owner.items() if system in empty.exhausted)


def _system(name: str, space: Space) -> str:
    """The file system that it shares with others, by a name that no node's own can be taken for."""
    return f"file system {space.filesystem}" if space.filesystem else f"node {name}"


def _exhausted(left: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(system for system, room in left.items() if room <= 0)
