"""The measured speed of nodes: a read is slow only if it is slow for its node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.nodes.speed import LONGEST, SMALL, TIMES, NodeSpeed


def test_nothing_is_known_of_a_node_that_was_not_read() -> None:
    speed = NodeSpeed()
    speed.note("node0", 1000, 0.9)
    assert speed.slow_after("node1", 1000) == 0.0


@given(st.floats(0.001, 5.0), st.floats(0, 1e-5), st.integers(1, 40))
def test_a_steady_node_is_never_slow_and_one_that_stalls_is(
    latency: float, per_byte: float, reads: int
) -> None:
    """Whatever the sizes of its reads: an answer that takes as long as ever is in time."""
    speed = NodeSpeed()
    for number in range(reads):
        size = 4 << 20 if number % 2 else 32 << 10
        speed.note("node", size, latency + size * per_byte)
    for size in (100, 32 << 10, 4 << 20):
        takes = latency + size * per_byte
        assert speed.slow_after("node", size) > min(takes, LONGEST / 2) or (reads == 1 and size > SMALL), (
            "of its bandwidth nothing is known yet"
        )
    assert speed.slow_after("node", 100) <= LONGEST


def test_it_follows_a_node_that_changes() -> None:
    speed = NodeSpeed()
    for seconds in (0.01, 1.0, 0.01):
        for _ in range(60):
            speed.note("node", 1000, seconds)
        assert abs(speed.slow_after("node", 1000) - TIMES * seconds) < 0.1 * TIMES * seconds


def test_one_slow_answer_is_no_habit() -> None:
    speed = NodeSpeed()
    for seconds in (*[0.05] * 20, 2.0):
        speed.note("node", 1000, seconds)
    assert speed.slow_after("node", 1000) < 2.0
