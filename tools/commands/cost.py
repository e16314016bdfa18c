"""The requests and bytes by which object stores charge, of a described use of a drive. Pure.

The numbers are those of the code that makes the requests: the lease (`backend.commits.lease`), a commit's
copies and confirmation (`backend.commits.commit_log`), packs (`backend.blocks`), the look at the nodes
(`cache.publish.store_watch`), the listing of debris once a day, and the scrub. A test holds those of the
lease, the commits, the packs and the look at the nodes to what a store counts; those of listing and scrub are
reckoned only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from backend.blocks import DEFAULT_TARGET
from backend.care import SHARES
from backend.coding import ClusterMap, Profile, copies_of, voters
from backend.commits import renewed_after
from cache.publish import INTERVAL

DAY: Final = 86400.0
MONTH: Final = 30 * DAY
_LISTED: Final = 1000
"""keys in an answer"""
_RECORD: Final = 1024
"""bytes of a lease, of a node's identity, of a small commit: about"""


@dataclass(frozen=True, slots=True)
class Layout:
    """A drive as far as its cost depends on it. `far`: the names of the nodes in object stores. Seconds;
    `scrub_interval` 0: never by itself."""

    profile: Profile
    cluster: ClusterMap
    far: frozenset[str]
    commit_interval: float
    lease_seconds: float
    scrub_interval: float

    @property
    def voters(self) -> int:
        """In object stores."""
        return len(self.far.intersection(voters(self.cluster)))

    @property
    def copies(self) -> float:
        """Of a commit, in object stores, on average."""
        return copies_of(self.cluster, self.profile.m) * self.voters / len(voters(self.cluster))

    @property
    def fragments(self) -> float:
        """Of a pack, in object stores, on average."""
        weights = {node.name: node.weight for node in self.cluster.nodes}
        share = sum(weights[name] for name in self.far) / sum(weights.values())
        return self.profile.total * share


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes. `written`: in a day, evenly, so that each commit has some; 0: the mount is idle."""

    stored: float
    written: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """In some time: requests that write (PUT), that read (GET, HEAD), that list; bytes to and from stores."""

    writes: float = 0.0
    reads: float = 0.0
    lists: float = 0.0
    sent: float = 0.0
    received: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Traffic)))

    def __mul__(self, times: float) -> Traffic:
        return Traffic(*(getattr(self, each.name) * times for each in fields(Traffic)))


def traffic(layout: Layout, use: Use, seconds: float) -> dict[str, Traffic]:
    """By what it is for."""
    commits = seconds / layout.commit_interval if use.written else 0.0
    scrubs = seconds / layout.scrub_interval if layout.scrub_interval else 0.0
    return {
        "lease": _round(layout) * _between(seconds, commits, renewed_after(layout.lease_seconds)),
        "commits": (_commit(layout) + _round(layout)) * commits,
        "contents": _contents(layout, use.written * seconds / DAY, commits),
        "looking at the nodes": _look(layout) * (_between(seconds, commits, INTERVAL) + commits),
        "looking for debris": _listing(layout, use.stored) * (seconds / DAY),
        "scrub": _scrub(layout, use.stored) * scrubs,
    }


def total(parts: Sequence[Traffic]) -> Traffic:
    """All together."""
    return sum(parts, Traffic())


def stored_bytes(layout: Layout, use: Use) -> float:
    """In object stores."""
    return use.stored * layout.fragments / layout.profile.k


def _between(seconds: float, commits: float, period: float) -> float:
    """Of what is done each `period` and put off by each commit: how often in these seconds."""
    return commits * (seconds / commits // period) if commits else seconds / period


def _round(layout: Layout) -> Traffic:
    """Each voter's record is read, for its tag, and replaced."""
    count = layout.voters
    return Traffic(writes=count, reads=count, sent=count * _RECORD, received=count * _RECORD)


def _commit(layout: Layout) -> Traffic:
    return Traffic(writes=layout.copies, sent=layout.copies * _RECORD)


def _contents(layout: Layout, written: float, commits: float) -> Traffic:
    """A commit waits for all its packs, so the last one is as small as what is left."""
    if not commits:
        return Traffic()
    packs = commits * max(math.ceil(written / commits / DEFAULT_TARGET), 1)
    return Traffic(writes=packs * layout.fragments, sent=written * layout.fragments / layout.profile.k)


def _look(layout: Layout) -> Traffic:
    return Traffic(reads=len(layout.far), received=len(layout.far) * _RECORD)


def _listing(layout: Layout, stored: float) -> Traffic:
    packs = stored / DEFAULT_TARGET
    return Traffic(lists=max(packs * layout.fragments / _LISTED, len(layout.far)))


def _scrub(layout: Layout, stored: float) -> Traffic:
    """Of every fragment the size is asked at least; a share is read."""
    packs, share = stored / DEFAULT_TARGET, stored / SHARES
    return Traffic(reads=packs * layout.fragments, received=share * layout.fragments / layout.profile.k)
