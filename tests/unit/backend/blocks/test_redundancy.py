"""`Upstream.redundancy`: what `sync` returned for outlives the loss of any two nodes, or it says that not.

The node that is late is made so in every way: slow, failing, gone; and it comes back, or does not.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import TransientError
from backend.upstream import Shortfall
from tests.faulty_node import Fault
from tests.unit.backend.blocks.test_block_store import Rig, blocks, build, reopened, running

SHORT, LONG = 0.3, 60.0
FAILS = TransientError("it fails")


@pytest.fixture
async def late(tmp_path: Path) -> Rig:
    return build(tmp_path, repair_wait=0.01)


async def put(rig: Rig, count: int = 1) -> None:
    await rig.store.put_blocks(blocks(count))
    await rig.store.flush()


def lacking(rig: Rig) -> tuple[str, ...]:
    return tuple(name for name in sorted(rig.nodes) if not list(rig.path.glob(f"{name}/packs/*/[!.]*")))


async def test_a_slow_node_is_waited_for(late: Rig) -> None:
    async with running(late) as rig:
        slow = trio.Event()
        rig.nodes["node3"].faults.append(Fault(("put",), until=slow))
        await put(rig)
        assert lacking(rig) == ("node3",)
        async with trio.open_nursery() as nursery:
            found: list[Shortfall] = []

            async def wait() -> None:
                found.append(await rig.store.redundancy(LONG))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not found
            slow.set()
        assert found == [Shortfall()]
        assert lacking(rig) == ()


async def test_a_node_that_hangs_ends_the_waiting(late: Rig) -> None:
    async with running(late) as rig:
        rig.nodes["node3"].faults.append(Fault(("put",), until=trio.Event()))
        await put(rig)
        assert await rig.store.redundancy(SHORT) == Shortfall(1, ("node3",))


@pytest.mark.logs_warnings
async def test_a_node_that_is_gone_is_not_waited_for(late: Rig) -> None:
    async with running(late) as rig:
        rig.nodes["node3"].faults.append(Fault(error=FAILS))
        await put(rig)
        with trio.fail_after(LONG / 2):
            assert await rig.store.redundancy(LONG) == Shortfall(1, ("node3",))


@pytest.mark.logs_warnings
async def test_a_node_that_takes_nothing_ends_the_waiting(late: Rig) -> None:
    async with running(late) as rig:
        rig.nodes["node3"].faults.append(Fault(("put",), error=FAILS))
        await put(rig)
        assert await rig.store.redundancy(SHORT) == Shortfall(1, ("node3",))


@pytest.mark.logs_warnings
async def test_a_pack_beyond_repair_is_no_shortfall(late: Rig) -> None:
    """Nothing relies on it: to sync again would not help it."""
    async with running(late) as rig:
        await put(rig)
        await rig.settle()
        for name in ("node0", "node1", "node2"):
            for path in rig.path.glob(f"{name}/packs/*/*"):
                path.unlink()
        await rig.store.reconcile()
        assert await rig.store.redundancy(LONG) == Shortfall()


@settings(max_examples=20, deadline=None)
@given(
    before=st.sets(st.integers(0, 7), max_size=4),
    then=st.sets(st.integers(0, 7), max_size=4),
    nodes=st.integers(6, 8),
    count=st.integers(1, 4),
    known=st.booleans(),
)
async def test_what_lies_on_nodes_that_do_not_answer_is_lacking(
    before: set[int], then: set[int], nodes: int, count: int, known: bool
) -> None:
    """`before`: away when the drive is opened; `then`: when it is asked. Nothing is written meanwhile."""
    with TemporaryDirectory() as folder:
        index = str(Path(folder, "index"))
        async with running(build(Path(folder), count=nodes, index=index, repair_wait=0.01)) as rig:
            for block in blocks(count):
                await rig.store.put_blocks([block])
                await rig.store.flush()
            await rig.settle()
        index = index if known else ":memory:"
        async with running(build(Path(folder), count=nodes, index=index, repair_wait=0.01)) as rig:
            take_away(rig, before)
            await rig.store.reconcile()
            take_away(rig, then)
            with trio.fail_after(LONG / 2):
                short = await rig.store.redundancy(LONG)
            lost = short_of(rig, then)
            assert (short.packs == 0) == (not lost)
            assert set(short.nodes) <= {f"node{number}" for number in then}
            if known:  # else of a pack with too few fragments at the opening, where the others lie is unknown
                assert lost <= set(short.nodes)
            take_away(rig, set())
            assert await rig.store.redundancy(LONG) == Shortfall()


def take_away(rig: Rig, numbers: set[int]) -> None:
    """Exactly these nodes do not answer."""
    for number, name in enumerate(sorted(rig.nodes)):
        rig.nodes[name].faults[:] = [Fault(error=FAILS)] if number in numbers else []


def short_of(rig: Rig, numbers: set[int]) -> set[str]:
    """Those of the nodes on which there are fragments."""
    names = {f"node{number}" for number in numbers}
    return names & {path.parent.parent.parent.name for path in rig.fragments()}


async def test_a_node_that_came_back_is_compared_before_it_is_relied_on(late: Rig) -> None:
    """Before it answers again, it has lost what it had."""
    async with running(late) as rig:
        await put(rig)
        await rig.settle()
        take_away(rig, {3})
        await rig.store.reconcile()
        for path in rig.path.glob("node3/packs/*/*"):
            path.unlink()
        assert await rig.store.redundancy(LONG) == Shortfall(1, ("node3",))
        take_away(rig, set())
        assert await rig.store.redundancy(LONG) == Shortfall()
        assert lacking(rig) == ()


async def test_nodes_that_hang_are_asked_at_once(late: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.blocks.repair_queue.CHECK_PATIENCE", 1.0)
    async with running(late) as rig:
        await put(rig)
        await rig.settle()
        for number in range(3):
            rig.nodes[f"node{number}"].faults.append(Fault(("check",), until=trio.Event()))
        with trio.fail_after(2.5):
            assert await rig.store.redundancy(LONG) == Shortfall(1, ("node0", "node1", "node2"))


@pytest.mark.logs_warnings
@settings(max_examples=15)
@given(
    late=st.integers(0, 5),
    times=st.integers(1, 6),
    count=st.integers(1, 4),
    lost=st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True),
)
async def test_any_two_nodes_may_be_lost_when_it_says_so(
    late: int, times: int, count: int, lost: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        sealed = blocks(count)
        async with running(build(Path(folder), repair_wait=0.01)) as rig:
            rig.nodes[f"node{late}"].faults.append(Fault(("put",), times=times, error=FAILS))
            await put(rig, count)
            assert await rig.store.redundancy(LONG) == Shortfall()
        for number in lost:
            shutil.rmtree(Path(folder, f"node{number}"))
        async with reopened(Path(folder)) as rig:
            await rig.store.reconcile()
            await rig.check(sealed)
