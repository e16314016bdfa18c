"""Rounds at random on a drive that another device writes too; `make soak` plays 10,000."""

from __future__ import annotations

import os

import pytest

from tests.mount.shared_drive import shared_drive
from tests.mount.shared_rounds import Rounds

pytestmark = pytest.mark.mount

ROUNDS = 100


def test_rounds(fuse: None) -> None:
    with shared_drive(interval=0.01) as drive:
        rounds = Rounds(drive)
        for seed in range(ROUNDS):
            rounds.play(seed)
        rounds.check_convergence()
    print(rounds.states, rounds.readings, "readings")
    assert min(rounds.states.values()) > 5


@pytest.mark.soak
@pytest.mark.timeout(24 * 3600)
def test_many_rounds(fuse: None) -> None:
    """SHARED_ROUNDS: from which round to which one, as `0-10000`."""
    first, last = map(int, os.environ.get("SHARED_ROUNDS", "0-10000").split("-"))
    with shared_drive(interval=0.01) as drive:
        rounds = Rounds(drive)
        for seed in range(first, last):
            rounds.play(seed)
        rounds.check_convergence()
    print(f"{last - first} rounds, {rounds.states}, {rounds.readings} readings of what was open")
    waits = sorted(rounds.waits)
    print(
        "seen after",
        *(f"{waits[int(part * len(waits))] * 1000:.1f} ms ({part:.0%})" for part in (0.5, 0.9, 0.99)),
    )
