"""The log and the lease under everything at once: a sample of seeds. `make soak` goes on from there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.simulation.run import Plan, plan_of, simulate
from tests.simulation.world import FAULTS

pytestmark = pytest.mark.logs_warnings

SEEDS = range(12)
CHANGING = range(12, 20)


def test_nothing_acknowledged_is_lost_whatever_happens() -> None:
    met: Counter[str] = Counter()
    takeovers = acknowledged = 0
    for seed in SEEDS:
        outcome = simulate(seed)
        takeovers += outcome.takeovers
        acknowledged += outcome.acknowledged
        met += outcome.met
    assert takeovers > 100
    assert acknowledged > 200
    assert met.keys() >= set(FAULTS), "some kind of fault was never met"


def test_nothing_is_lost_where_mounts_and_tools_change_the_nodes() -> None:
    """Each seed of these has changes of the map, under faults or without."""
    met: Counter[str] = Counter()
    for seed in CHANGING:
        met += simulate(seed, replace(plan_of(seed), map_changes=True)).met
    assert met["map change in use"] > 10
    assert met["map change"] > met["map change in use"]


def test_a_drive_that_ends_with_four_votes_is_held_to_bear_one_less() -> None:
    """The seed ends between two changes, and a zone has two of the four: without it there is no majority."""
    simulate(171)


def test_a_commit_that_is_moved_is_not_believed_to_be_where_a_late_answer_says() -> None:
    """Two of three copies were deleted: a node that had given its copy away was read as it was before."""
    simulate(1636)


def test_the_same_seed_is_the_same_run() -> None:
    assert simulate(3) == simulate(3)


def test_without_faults_it_is_all_takeovers() -> None:
    outcome = simulate(1, Plan(1, nodes=6, zones=6, machines=2, likely={}, map_changes=False))
    assert outcome.takeovers > 50
    assert set(outcome.met) <= {"node away"}


def test_every_kind_of_fault_is_in_some_plan_and_out_of_another() -> None:
    plans = [plan_of(seed) for seed in range(200)]
    for kind in {kind for plan in plans for kind in plan.likely}:
        assert 20 < sum(kind in plan.likely for plan in plans) < 180
