"""Which node keeps which fragment: weighted rendezvous hashing over the cluster map, zones spread.

Every reader computes the same answer from the map alone. Each node draws a number from a hash of
(object, node) and the highest win, so a node that comes or goes moves only what it gains or loses
(Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 1998). The
weights enter as -weight / ln(h) (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA
2005), so each node gets its share. Pure functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import blake3

from backend.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node as the map knows it. `weight` is relative capacity; 0 takes nothing new. `votes`: it keeps the
    lease, the log and the roots too (`backend.coding.voters`)."""

    name: str
    zone: str
    weight: float = 1.0
    votes: bool = True


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """The nodes at one `epoch`; a changed map has a higher epoch. Names are unique."""

    epoch: int
    nodes: tuple[ClusterNode, ...]

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names):
            raise UsageError("two nodes of the cluster map have the same name")
        if any(not (math.isfinite(node.weight) and node.weight >= 0) for node in self.nodes):
            raise UsageError("a node's weight must be a number that is not negative")


def require_nodes(cluster: ClusterMap, count: int) -> None:
    """`UsageError` unless `count` fragments can lie on different nodes (mkfs asks this)."""
    usable = sum(node.weight > 0 for node in cluster.nodes)
    if usable < count:
        raise UsageError(
            f"the profile needs {count} nodes and there are {usable}: add nodes or choose a smaller profile"
        )


def place(cluster: ClusterMap, object_id: bytes, count: int) -> list[str]:
    """The names of `count` different nodes, best first: fragment i belongs on the i-th. No zone holds more
    fragments than the most even spread needs, hence no more than m wherever that can be avoided.
    `UsageError` if there are fewer nodes than `count`."""
    require_nodes(cluster, count)
    ranked = sorted(_usable(cluster), key=lambda node: (-_score(node, object_id), node.name))
    limit = _zone_limit(ranked, count)
    chosen: list[str] = []
    held: Counter[str] = Counter()
    for node in ranked:
        if len(chosen) < count and held[node.zone] < limit:
            held[node.zone] += 1
            chosen.append(node.name)
    return chosen


def stand_ins(cluster: ClusterMap, object_id: bytes, chosen: Sequence[str]) -> list[str]:
    """The nodes that may take a fragment in the place of one of `chosen` (of which some may be gone from the
    map), the best first: zones that hold the fewest of them, then the rendezvous order."""
    zones = {node.name: node.zone for node in cluster.nodes}
    held = Counter(zones.get(name) for name in chosen)
    left = [node for node in _usable(cluster) if node.name not in chosen]
    left.sort(key=lambda node: (held[node.zone], -_score(node, object_id), node.name))
    return [node.name for node in left]


def settle(wanted: Sequence[str], holders: Sequence[Collection[str]]) -> list[str]:
    """On which of the different nodes `wanted` each fragment is to lie, when fragment i lies on `holders[i]`
    now: where it is, if that is a wanted node that no fragment before it has; so only what must move does."""
    kept: list[str | None] = []
    for held in holders:
        kept.append(next((name for name in wanted if name in held and name not in kept), None))
    return fill(kept, wanted, wanted)


def fill(kept: Sequence[str | None], own: Sequence[str], usable: Sequence[str]) -> list[str]:
    """`kept`, with a node for each None: the `own` of that fragment if it is one of the `usable` and has no
    fragment, else the first usable one that has none; its own after all if there is no such node."""
    free = [name for name in dict.fromkeys(usable) if name not in kept]
    filled = list(kept)
    for index, name in enumerate(own):
        if filled[index] is None and name in free:
            free.remove(name)
            filled[index] = name
    rest = iter(free)
    return [name or next(rest, own[index]) for index, name in enumerate(filled)]


def _usable(cluster: ClusterMap) -> list[ClusterNode]:
    return [node for node in cluster.nodes if node.weight > 0]


def _zone_limit(nodes: Sequence[ClusterNode], count: int) -> int:
    """The smallest number per zone with which `count` nodes can be found."""
    sizes = Counter(node.zone for node in nodes).values()
    limit = 1
    while sum(min(size, limit) for size in sizes) < count:
        limit += 1
    return limit


def _score(node: ClusterNode, object_id: bytes) -> float:
    name = node.name.encode()
    digest = blake3.blake3(len(name).to_bytes(2, "little") + name + object_id).digest(8)
    uniform = (int.from_bytes(digest, "little") >> 11) + 0.5
    return -node.weight / math.log(uniform / 2.0**53)
