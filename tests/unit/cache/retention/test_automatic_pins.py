"""The names of automatic pins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.retention.automatic_pins import DAYS, is_for, is_over, pin_name

SECOND = 10**9
DAY = 24 * 3600 * SECOND


def test_a_name_made_by_hand() -> None:
    name = b"mass-deletion 2026-11-28T18:05:00Z until 2026-12-28T18:05:00Z (7)"
    assert pin_name("mass-deletion", 7, 1795889100 * SECOND) == name
    assert is_for("mass-deletion", name)
    assert not is_for("conflict", name)


@given(st.integers(0, 200_000 * DAY))
def test_a_pin_is_over_when_its_days_are(now: int) -> None:
    name, end = pin_name("conflict", 1, now), now // SECOND * SECOND + DAYS * DAY
    assert not is_over(name, end - 1)
    assert is_over(name, end)


@pytest.mark.parametrize(
    "name",
    [b"mine", b"mine until 2020-01-01T00:00:00Z", b"a 2020-02-01T00:00:00Z until 2020-02-31T00:00:00Z (1)"],
)
def test_the_pins_of_people_are_never_over(name: bytes) -> None:
    assert not is_over(name, 1 << 62)
