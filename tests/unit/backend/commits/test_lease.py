"""The lease: one holder, fencing of the stale, renewal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.commits import lease_record
from backend.commits.lease import Lease
from backend.commits.lease_record import MAX_SIZE, Claim
from backend.commits.lease_votes import KEY
from backend.errors import (
    FencedError,
    LeaseHeldError,
    TransientError,
    UnavailableError,
)
from tests.leases import HOLDER, RECORD, Setup, stored


async def test_the_first_holder_has_epoch_1_and_each_next_one_more() -> None:
    setup = Setup()
    for epoch in (1, 2, 3):
        lease = await setup.held()
        assert lease.epoch == epoch
        lease.check()
        await lease.verify()
        await lease.release()
        await lease.release()
        assert lease.epoch == 0


@pytest.mark.parametrize(("duration", "renewals"), [(30, 360), (120, 36)])
async def test_an_idle_holder_renews_so_often_in_an_hour(
    duration: float, renewals: int, autojump_clock: trio.testing.MockClock
) -> None:
    setup = Setup(5)
    lease = await setup.held(seconds=duration)
    calls = setup.counted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        await trio.sleep(3601)
        lease.check()
        nursery.cancel_scope.cancel()
    assert calls == {"swap": renewals * 5}


async def test_who_commits_in_time_need_not_renew(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup(5)
    lease = await setup.held(seconds=120)
    calls = setup.counted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        for _ in range(10):
            await trio.sleep(30)
            await lease.verify()
        await trio.sleep(99)
        nursery.cancel_scope.cancel()
    assert calls == {"swap": 50}


@pytest.mark.parametrize("duration", [30, 120])
async def test_a_lease_outlasts_an_outage_while_another_waits_for_it(
    duration: float, autojump_clock: trio.testing.MockClock
) -> None:
    setup = Setup()
    lease = await setup.held("one", duration)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        await trio.sleep(duration - 20.5)
        setup.lose("node0", "node1", "node2")
        await trio.sleep(15)
        lease.check()
        setup.lose()
        with pytest.raises(LeaseHeldError):
            await setup.lease("two").acquire()
        lease.check()
        nursery.cancel_scope.cancel()


async def test_a_lease_is_renewed_soon_after_the_machine_was_suspended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The event loop's clock stood still meanwhile."""
    setup, asleep = Setup(), 0.0
    lease = setup.lease(seconds=120, boot_clock=lambda: trio.current_time() + asleep)
    await lease.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        await trio.sleep(1)
        asleep = 3600.0
        await trio.sleep(11)
        lease.check()
        nursery.cancel_scope.cancel()


async def test_of_many_that_try_at_once_one_holds(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    setup.life = "running"
    leases = [setup.lease(str(number)) for number in range(5)]
    refused: list[str] = []

    async def attempt(lease: Lease) -> None:
        try:
            await lease.acquire()
        except LeaseHeldError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for lease in leases:
            nursery.start_soon(attempt, lease)
    holders = [lease for lease in leases if lease.epoch]
    assert len(holders) == 1
    assert len(refused) == 4
    await holders[0].verify()


async def test_two_nodes_may_be_away_and_three_may_not() -> None:
    setup = Setup()
    setup.lose("node0", "node1")
    lease = await setup.held()
    await lease.renew()
    await lease.verify()
    setup.lose("node0", "node1", "node2")
    for call in (lease.renew, lease.verify, setup.lease("two").acquire):
        with pytest.raises(UnavailableError) as caught:
            await call()
        assert caught.value.nodes == ("node0", "node1", "node2")
    setup.lose()
    await lease.renew()
    assert sum(KEY in node.objects for node in setup.nodes.values()) == 6


async def test_a_holder_stays_one_when_its_nodes_change_one_by_one() -> None:
    """Renewing spreads the lease to nodes that came back, so that others may go."""
    setup = Setup()
    setup.lose("node0", "node1")
    lease = await setup.held()
    for away in (("node2", "node3"), ("node4", "node5"), ("node0", "node1")):
        setup.lose()
        await lease.renew()
        setup.lose(*away)
        await lease.renew()
        await lease.verify()


async def test_any_two_majorities_meet() -> None:
    """Whoever was taken over by a majority cannot find one, whichever nodes are away."""
    setup = Setup()
    old = await setup.held("one")
    setup.life = "gone"
    setup.lose("node0", "node1")
    new = await setup.held("two")
    for first in setup.nodes:
        for second in setup.nodes:
            setup.lose(first, second)
            with pytest.raises((FencedError, TransientError)):
                await old.verify()
    setup.lose()
    with pytest.raises(FencedError):
        await old.verify()
    await new.verify()


async def test_a_lease_that_only_ran_out_is_renewed(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    lease = await setup.held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        setup.lose("node0", "node1", "node2")
        await trio.sleep(100)
        with pytest.raises(TransientError, match="not renewed for 30 s"):
            lease.check()
        setup.lose()
        await trio.sleep(10)
        lease.check()
        assert lease.epoch == 1
        nursery.cancel_scope.cancel()


async def test_who_needs_a_lease_that_ran_out_renews_it(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    lease = await setup.held()
    await trio.sleep(100)
    with pytest.raises(TransientError, match="not renewed for 30 s"):
        lease.check()
    setup.lose("node0", "node1", "node2")
    with pytest.raises(UnavailableError) as caught:
        await lease.ensure()
    assert caught.value.nodes == ("node0", "node1", "node2")
    setup.lose()
    before = setup.nodes["node5"].objects[KEY]
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lease.ensure)
    lease.check()
    renewed = lease_record.decode(setup.nodes["node5"].objects[KEY]).renewals
    assert renewed == lease_record.decode(before).renewals + 1, "each of five renewed it"
    await lease.ensure()
    assert lease_record.decode(setup.nodes["node5"].objects[KEY]).renewals == renewed


async def test_who_needs_a_lease_that_was_taken_over_is_fenced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setup = Setup()
    old = await setup.held("one")
    await trio.sleep(100)
    setup.life = "gone"
    new = await setup.held("two")
    with pytest.raises(FencedError):
        await old.ensure()
    await new.verify()


async def test_who_may_do_without_an_answer_is_fenced_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """`confirm` asks no node while the lease holds, and no more than it must while nodes are away; once one
    can know that it was taken over, it says so."""
    setup = Setup()
    old = await setup.held("one")
    everything = tuple(setup.nodes)
    setup.lose(*everything)
    await old.confirm()
    await trio.sleep(100)
    for _ in range(2):
        await old.confirm()
    setup.lose()
    await trio.sleep(3)
    await old.confirm()
    old.check()
    await trio.sleep(100)
    setup.life = "gone"
    new = await setup.held("two")
    for _ in range(2):
        with pytest.raises(FencedError):
            await old.confirm()
    await new.verify()


async def test_a_node_that_hangs_does_not_cost_the_lease(autojump_clock: trio.testing.MockClock) -> None:
    """Two never answer: renewing goes on, and a write is confirmed without waiting for them."""
    setup = Setup()
    lease = await setup.held()

    async def hang(_operation: str, _key: str) -> None:
        await trio.sleep_forever()

    setup.nodes["node0"].before = setup.nodes["node4"].before = hang
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        for _ in range(20):
            await trio.sleep(10)
            lease.check()
            before = trio.current_time()
            await lease.verify()
            assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def test_run_ends_when_the_lease_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    old = await setup.held("one")
    setup.life = "gone"
    await setup.held("two")
    await old.run()
    assert old.lost.is_set()
    await old.release()
    assert lease_record.decode(setup.nodes["node0"].objects[KEY]).holder.host == "two"


async def test_damaged_and_foreign_records_count_as_none() -> None:
    setup = Setup()
    setup.nodes["node0"].objects[KEY] = b"damaged"
    setup.nodes["node1"].objects[KEY] = stored(replace(RECORD, drive="another"))
    lease = await setup.held()
    assert lease.epoch == 1
    assert lease_record.decode(setup.nodes["node0"].objects[KEY]).epoch == 1


@pytest.mark.parametrize("large", [2, 3])
async def test_what_is_larger_than_a_record_is_never_swapped(large: int) -> None:
    """A node compares all of what it has with what is expected; a bucket would download it."""
    setup = Setup()
    names = [f"node{number}" for number in range(large)]
    swapped: list[str] = []

    def noting(name: str) -> Callable[[str, str], Awaitable[None]]:
        async def note(operation: str, _key: str) -> None:
            await trio.lowlevel.checkpoint()
            if operation == "swap":
                swapped.append(name)

        return note

    for name in names:
        setup.nodes[name].objects[KEY] = bytes(MAX_SIZE + 1)
        setup.nodes[name].before = noting(name)
    if large < 3:
        lease = await setup.held()
        await lease.verify()
        await lease.release()
    else:
        with pytest.raises(UnavailableError, match="larger than any record"):
            await setup.held()
    assert swapped == []
    assert all(setup.nodes[name].objects[KEY] == bytes(MAX_SIZE + 1) for name in names)


FORGERIES = st.fixed_dictionaries(
    {},
    optional={
        "epoch": st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 2, 2**64 - 1]),
        "held": st.booleans(),
        "renewals": st.integers(0, 2**64 - 1),
        "token": st.sampled_from(["", "token", "another"]),
        "seconds": st.sampled_from([0.0, 1e-9, 1e18]),
        "holder": st.sampled_from([HOLDER, replace(HOLDER, host="forged", pid=1)]),
        "claim": st.builds(Claim, st.just(2**60), st.integers(1, 9), st.just(bytes(32))),
    },
)


@given(st.lists(FORGERIES, min_size=1, max_size=2), st.booleans(), st.booleans())
def test_a_record_that_nodes_made_up_neither_holds_nor_uses_up_the_lease(
    forgeries: list[dict[str, Any]], released: bool, renewing: bool
) -> None:
    """Of what the last holder left on all nodes, one or two nodes change anything, again and again."""

    async def run() -> None:
        setup = Setup()
        setup.life = "gone"

        def forge() -> None:
            for node, forgery in zip(setup.nodes.values(), forgeries, strict=False):
                record = lease_record.decode(node.objects[KEY])
                node.objects[KEY] = lease_record.encode(replace(record, **forgery), bytes(32))

        for epoch in range(1, 5):
            lease = await setup.held()
            assert lease.epoch == epoch
            if renewing:
                forge()
                await lease.renew()
                await lease.verify()
            if released:
                await lease.release()
            forge()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_record_of_a_newer_drivefs_is_left_alone() -> None:
    setup = Setup(1)
    newer = stored(RECORD).replace(b'"format": 3', b'"format": 4')
    setup.nodes["node0"].objects[KEY] = newer
    with pytest.raises(UnavailableError):
        await setup.lease().acquire()
    assert setup.nodes["node0"].objects[KEY] == newer


async def test_the_epoch_can_be_raised_above_what_the_log_has() -> None:
    setup = Setup()
    lease = setup.lease()
    assert await lease.acquire(minimum_epoch=40) == 40


async def test_without_acquire_there_is_no_lease() -> None:
    lease = Setup().lease()
    with pytest.raises(FencedError, match="not held"):
        lease.check()
    with pytest.raises(FencedError, match="not held"):
        await lease.ensure()
    with pytest.raises(FencedError, match="not held"):
        await lease.verify()


@pytest.mark.parametrize("bad", range(1, 6))
async def test_voters_that_cannot_be_written_are_named(
    bad: int, autojump_clock: trio.testing.MockClock
) -> None:
    """They answer, so that they are not away. As long as a majority takes the lease they do not matter."""
    setup = Setup()
    names = [f"node{number}" for number in range(bad)]
    for name in names:
        setup.nodes[name].read_only = True
    lease = setup.lease()
    if bad < 3:
        assert await lease.acquire() == 1
        return
    with pytest.raises(UnavailableError, match="lease needs 4 of 6 nodes") as caught:
        await lease.acquire()
    assert all(f"{name} is read-only" in str(caught.value) for name in names)
    assert "drivefs node replace" in str(caught.value)
    assert lease.epoch == 0
