"""Which nodes vote: they keep the lease, the commit log and the roots; all others keep fragments only. Pure.

As many as it takes to lose `m` of them and have a majority left, 2m+1, or all if there are fewer: more would
make each commit slower, and nothing safer. They are spread over the zones, so that as few as possible go with
one. One vote comes or goes with each map (docs/format/lease.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from backend.coding.placement import ClusterMap, ClusterNode


def voters(cluster: ClusterMap) -> list[str]:
    """The names of the nodes that vote."""
    return [node.name for node in cluster.nodes if node.votes]


def copies_of(cluster: ClusterMap, m: int) -> int:
    """On how many voters a commit must be: a majority, and one more than may be lost."""
    count = len(voters(cluster))
    return min(count, max(count // 2 + 1, m + 1))


def next_voter(cluster: ClusterMap, m: int, able: Collection[str]) -> str | None:
    """The node that is to get a vote next, of those that are `able` to; None if enough have one, or no other
    could."""
    having = [node for node in cluster.nodes if node.votes]
    others = [node for node in cluster.nodes if not node.votes and node.weight > 0 and node.name in able]
    if len(having) > 2 * m or not others:
        return None
    return _from_the_emptiest_zone(having, others).name


def first_voters(nodes: Iterable[ClusterNode], m: int) -> list[str]:
    """The voters of a new drive."""
    others, having = list(nodes), list[ClusterNode]()
    while others and len(having) <= 2 * m:
        chosen = _from_the_emptiest_zone(having, others)
        others.remove(chosen)
        having.append(chosen)
    return [node.name for node in having]


def _from_the_emptiest_zone(having: Iterable[ClusterNode], others: list[ClusterNode]) -> ClusterNode:
    votes = Counter(node.zone for node in having)
    return min(others, key=lambda node: votes[node.zone])
