"""What one operation of a hub costs, as it was measured: data of `bench.hub_capacity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of processor time, and bytes of write-ahead log."""

    hub_ms: float = 0.0
    database_ms: float = 0.0
    wal_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """`by_kind`: for each field of `bench.hub_capacity.Work`, of one operation, MiB or second. Bytes: a
    poll's, in the hub's process; in tables and indexes those of a block, of a commit, and of one that lies in
    a log segment. `kept_commits`: of a drive, that are in no segment, in the mean."""

    date: str
    machine: str
    by_kind: Mapping[str, Cost]
    poll_bytes: float
    block_row_bytes: float = 420.0
    commit_bytes: float = 3600.0
    moved_row_bytes: float = 190.0
    kept_commits: float = 40.0


COSTS: Final = Costs("", "", {}, 0.0)
