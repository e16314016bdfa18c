"""The probability that a drive loses data: the model of docs/durability.md. Pure functions; times are in
years.

Disks fail independently at a rate, and a failed one is whole again after a window (until somebody replaces
it, and then until repair has filled it). Data is lost when the disks that are down together hold more nodes
than the profile can do without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

YEAR = 365.25 * 24 * 3600
"""seconds"""


@dataclass(frozen=True, slots=True)
class FatalSets:
    """The fewest disks (`size`) whose loss together loses data, and how many such sets there are; size 0: no
    set of disks can."""

    size: int
    count: int


def failures_per_year(annual_failure_rate: float) -> float:
    """The rate at which a disk fails, if this share of disks (below 1) fails within a year."""
    return -math.log1p(-annual_failure_rate)


def fatal_sets(nodes_on_disks: Sequence[int], spare: int) -> FatalSets:
    """`nodes_on_disks` has the number of nodes on each disk; `spare` nodes may be lost."""
    sums: Counter[tuple[int, int]] = Counter({(0, 0): 1})
    for nodes in nodes_on_disks:
        sums.update({(size + 1, total + nodes): count for (size, total), count in list(sums.items())})
    fatal: Counter[int] = Counter()
    for (size, total), count in sums.items():
        if total > spare:
            fatal[size] += count
    size = min(fatal, default=0)
    return FatalSets(size, fatal[size])


def losses_per_year(sets: FatalSets, failures: float, down: float) -> float:
    """The number of times that data is lost in a year: one disk of a fatal set fails while all others of it
    are down. `failures`: of a disk in a year; `down`: the share of time in which a disk is (small)."""
    if not sets.size:
        return 0.0
    return sets.count * sets.size * failures * float(down ** (sets.size - 1))


def probability(losses: float) -> float:
    """Of at least one loss in a year."""
    return -math.expm1(-losses)


def nines(chance: float) -> float:
    """8.7 for 0.000000002: how many nines the chance that nothing is lost has."""
    return math.inf if chance <= 0 else -math.log10(chance)
