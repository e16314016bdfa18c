"""Gaps between retained points as a temporary table, so that SQL can tell which past rows lie in one.

A past row [born, died) lies in a gap (low, high) if low < born and died <= high. Gaps may overlap: those of
several `Forget`s do. The table has for each `high` the lowest `low` of all gaps that reach as far, so one
look-up a row is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cache.namespace import Connection, Gap

IN_GAP: Final = "coalesce((SELECT low FROM temp.gap WHERE high >= died ORDER BY high LIMIT 1) < born, 0)"
"""Of a row of a `past_` table: 1 or 0. After `fill` or `fill_forgotten` on the same connection."""

_FORGOTTEN: Final = (
    "SELECT low, high FROM forgetting WHERE born <= (SELECT coalesce(max(number), 0) FROM commits)"
)


def fill(connection: Connection, gaps: Iterable[Gap]) -> None:
    """The given gaps."""
    connection.execute("CREATE TEMP TABLE gap (high INTEGER PRIMARY KEY, low INTEGER NOT NULL)")
    lows: dict[int, int] = {}
    lowest = 1 << 63
    for low, high in sorted(gaps, key=lambda gap: -gap[1]):
        lowest = lows[high] = min(low, lowest)
    connection.executemany("INSERT INTO temp.gap VALUES (?, ?)", lows.items())


def fill_forgotten(connection: Connection) -> None:
    """The gaps of all `Forget`s that are in effect: their rows are to go, but may be there still, and their
    blocks may be gone."""
    fill(connection, [(low, high) for low, high in connection.execute(_FORGOTTEN)])
