"""The changes that wait to be published, for people: how many, how large, since when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from cache.journal import Ledger
from cache.messages import WaitingStatus
from cache.namespace import decode

LOOKED_AT: Final = 1000
"""So many operations of each commit, the first, are asked for their times. They are in order, but for those
that a rebase resolved."""


def waiting(ledger: Ledger) -> WaitingStatus | None:
    """None: nothing waits. Event-loop thread; walks all dirty files."""
    if not ledger.unpublished:
        return None
    pending = [] if ledger.pending is None else ledger.pending.operations
    commits = [pending, ledger.operations]
    layers = [layer for _, layer in [*ledger.dirty.frozen(), *ledger.dirty.tops()]]
    times = [*_times(commits), *(layer.first_ns for layer in layers)]
    changes = sum(map(len, commits)) + sum(layer.writes for layer in layers)
    return WaitingStatus(changes=changes, bytes=ledger.unstored_bytes, since_ns=min(times, default=0))


def _times(commits: Iterable[list[bytes]]) -> Iterator[int]:
    """The moments at which operations were accepted, of those that say it."""
    for operations in commits:
        for operation in map(decode, islice(operations, LOOKED_AT)):
            time_ns = getattr(operation, "time_ns", None) or getattr(operation, "ctime_ns", None)
            if time_ns is not None:
                yield time_ns
