"""The model of a hub's needs: sums of unit costs, and what they are divided by."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.hub_capacity import MACHINES, MIB, SMALL, TARGET, Work, plan, rewriting_of, table, used, work_of
from bench.hub_costs import COSTS, Cost, Costs

KINDS = [each.name for each in fields(Work)]
COUNTS = st.floats(0, 1e9, allow_nan=False)
SIMPLE = Costs("today", "this", {kind: Cost(1.0, 2.0, 3.0) for kind in KINDS}, 10_000.0, 400.0, 4000.0)


def test_each_kind_of_work_has_a_cost() -> None:
    assert set(COSTS.by_kind) == {*KINDS}
    assert all(each.hub_ms >= 0 and each.database_ms >= 0 for each in COSTS.by_kind.values())


@given(st.builds(Work, **dict.fromkeys(KINDS, COUNTS)))
def test_costs_add_up(work: Work) -> None:
    count = sum(work.kinds().values())
    found = used(work, SIMPLE)
    expected = [count, 2 * count, 3 * count]
    assert [found.hub_ms, found.database_ms, found.wal_bytes] == pytest.approx(expected)


@given(st.sampled_from(KINDS), COUNTS)
def test_a_kind_costs_as_it_was_measured(kind: str, count: float) -> None:
    found = used(replace(Work(), **{kind: count}), COSTS)
    assert found.database_ms == pytest.approx(count * COSTS.by_kind[kind].database_ms)


def test_the_work_of_a_second_is_that_of_what_is_saved_read_and_waited_for() -> None:
    demand = replace(TARGET, saves=10, save_bytes=4 * MIB, block_bytes=MIB, reads_each=3, active=1200)
    work = work_of(replace(demand, devices_each=1, poll_seconds=60), MACHINES)
    assert (work.appends, work.named, work.packs, work.blocks, work.stored_mib) == (10, 40, 10, 30, 40)
    assert (work.reads, work.read_mib, work.logs) == (120, 120, 30)
    assert (work.polls, work.idle, work.looking) == (20 + 30, 1200, 1)


def test_each_byte_that_is_released_makes_so_much_to_rewrite() -> None:
    demand = replace(TARGET, saves=32, peak=2, save_bytes=4 * MIB, block_bytes=MIB, replaced=0.5)
    work = rewriting_of(demand)  # 32 MiB/s are released: of packs of 80, of which 48 are needed
    assert (work.read_mib, work.stored_mib, work.blocks, work.reads, work.packs) == pytest.approx(
        (80, 48, 48, 20, 6)
    )


def test_what_must_be_divided_is_rounded_up() -> None:
    assert plan(SMALL).need("hub processes, by polls").machines == 1
    assert plan(SMALL).need("PostgreSQL, by tables").machines == 1


def test_ten_times_the_people_need_ten_times_as_much() -> None:
    more = replace(TARGET, accounts=10 * TARGET.accounts, active=10 * TARGET.active, saves=10 * TARGET.saves)
    for one, ten in zip(plan(TARGET).needs, plan(more).needs, strict=True):
        assert ten.amount == pytest.approx(10 * one.amount, rel=0.01)
    for name, times in plan(TARGET).bears.items():
        assert plan(more).bears[name] == pytest.approx(times / 10, rel=0.01)


def test_the_first_limit_is_the_one_that_bears_least() -> None:
    bears = plan(TARGET).bears
    assert min(bears, key=lambda name: bears[name]) == "one server of PostgreSQL"
    assert plan(SMALL).bears["one server of PostgreSQL"] > 1


@pytest.mark.parametrize(
    "resource",
    [
        "hub processes, by processor",
        "PostgreSQL, by processor",
        "PostgreSQL, by tables",
        "rewriting of thin packs",
    ],
)
def test_the_page_has_the_figures_of_the_model(resource: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hub_capacity.md").read_text().replace("*", "")
    (amount, machines) = re.findall(rf"^\| {resource} \| (.+?) \| (.+?) \|$", page, re.MULTILINE)[0]
    need = plan(TARGET).need(resource)
    assert re.match(rf"{need.amount:,.0f} {need.unit}\b", amount)
    assert re.match(rf"{need.machines:,}\b", machines)


def test_the_table_has_a_row_for_each_need_and_each_limit() -> None:
    found = plan(TARGET)
    lines = table(TARGET, found).splitlines()
    names = [*(each.resource for each in found.needs), *found.bears]
    assert all(sum(line.startswith(f"| {name} |") for line in lines) == 1 for name in names)
