"""Which rows lie in gaps, against the definition."""

from __future__ import annotations

import apsw
from hypothesis import given
from hypothesis import strategies as st

from cache.retention.gap_table import IN_GAP, fill

INTERVALS = st.integers(0, 11).flatmap(lambda low: st.tuples(st.just(low), st.integers(low + 1, 12)))


@given(st.lists(INTERVALS, max_size=6), st.lists(INTERVALS, max_size=10))
def test_a_row_is_in_a_gap_if_it_lies_within_one(
    gaps: list[tuple[int, int]], rows: list[tuple[int, int]]
) -> None:
    """Gaps may overlap, meet, contain one another."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE past (born INTEGER, died INTEGER)")
    connection.executemany("INSERT INTO past VALUES (?, ?)", rows)
    fill(connection, gaps)
    found = connection.execute(f"SELECT born, died, {IN_GAP} FROM past").fetchall()
    connection.close()
    expected = [
        (born, died, int(any(low < born and died <= high for low, high in gaps))) for born, died in rows
    ]
    assert found == expected
