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
    block_row_bytes: float
    commit_bytes: float
    moved_row_bytes: float = 190.0
    kept_commits: float = 40.0


COSTS: Final = Costs(
    date="2026-11-28",
    machine="two virtual x86_64 processors with a load of 12, Python 3.11, PostgreSQL 15, profile 4+2",
    by_kind={
        "appends": Cost(1.31, 1.23, 4097),
        "named": Cost(0.33, 0.11, 347),
        "packs": Cost(7.75, 1.69, 1531),
        "blocks": Cost(0.038, 0.059, 818),
        "stored_mib": Cost(5.11, 0.21),
        "asked": Cost(1.28, 0.91, 353),
        "reads": Cost(1.86, 0.48),
        "read_mib": Cost(1.02, 0.089),
        "logs": Cost(1.00, 0.62),
        "polls": Cost(1.33, 0.41),
        "idle": Cost(0.0179, 0.0179),
        "looking": Cost(20.0, 5.99),
    },
    poll_bytes=29_700,
    block_row_bytes=490,
    commit_bytes=4410,
)
