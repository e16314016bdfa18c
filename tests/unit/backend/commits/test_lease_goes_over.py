"""The lease of a holder whose voters are exchanged: the same acquisition, on others."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backend.commits import lease_record
from backend.commits.lease import Lease
from backend.commits.lease_votes import KEY
from backend.errors import (
    ConflictError,
    FencedError,
    LeaseHeldError,
    TransientError,
    UnavailableError,
)
from tests.leases import DRIVE, HOLDER, SECRET, Setup


async def test_who_goes_over_to_other_voters_holds_the_same_acquisition_there() -> None:
    setup = Setup(6)
    every, setup.nodes = setup.nodes, {name: setup.nodes[name] for name in ("node0", "node1", "node2")}
    lease = await setup.held()
    epoch = lease.epoch
    setup.nodes = {**setup.nodes, "node3": every["node3"]}
    await lease.go_over(setup.nodes, 30)
    await lease.announce(2)
    assert lease.epoch == epoch
    assert sum(KEY in node.objects for node in setup.nodes.values()) >= 3
    with pytest.raises(LeaseHeldError):
        await Lease(setup.nodes, DRIVE, SECRET, HOLDER, map_epoch=2, life=lambda *_: "running").acquire()
    old = {name: every[name] for name in ("node0", "node1", "node2")}
    with pytest.raises(ConflictError, match="nodes were changed"):
        await Lease(old, DRIVE, SECRET, HOLDER, life=lambda *_: "gone").acquire()


async def test_a_majority_of_the_new_voters_is_what_counts() -> None:
    setup = Setup(5)
    every, setup.nodes = setup.nodes, {name: setup.nodes[name] for name in ("node0", "node1", "node2")}
    lease = await setup.held()
    await lease.go_over(every, 30)
    for name in ("node2", "node3", "node4"):
        every[name].away = True
    with pytest.raises(UnavailableError, match="3 of 5"):
        await lease.verify()
    every["node4"].away = False
    await lease.verify()


@pytest.mark.parametrize("voters", [("node0", "node1", "node2", "node3"), ("node0", "node1")])
async def test_who_was_taken_over_before_it_goes_over_finds_out_there(voters: tuple[str, ...]) -> None:
    """By one voter more or less: the other holder has a majority of the old ones."""
    setup = Setup(4)
    every, setup.nodes = setup.nodes, {name: setup.nodes[name] for name in ("node0", "node1", "node2")}
    stopped = await setup.held("one")
    setup.life = "gone"
    await setup.held("two")
    await stopped.go_over({name: every[name] for name in voters}, 30)
    with pytest.raises((FencedError, TransientError)):
        await stopped.announce(2)


async def test_a_round_that_is_under_way_is_of_the_voters_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setup = Setup(4)
    every, setup.nodes = setup.nodes, {name: setup.nodes[name] for name in ("node0", "node1", "node2")}
    lease = await setup.held()

    async def slow(_called: str, _key: str) -> None:
        await trio.sleep(1)

    for node in every.values():
        node.before = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.verify)
        await trio.testing.wait_all_tasks_blocked()
        await lease.go_over(every, 30)
        assert KEY not in every["node3"].objects
    await lease.verify()


@pytest.mark.parametrize(("before", "after"), [(30.0, 120.0), (120.0, 30.0)])
async def test_others_trust_it_for_as_long_as_its_new_voters_let_it_be_silent(
    before: float, after: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Regression: the record went on saying the seconds of the acquisition. A mount that got its first voter
    in a store renewed every 100 s, and was taken over from another machine after 33."""
    setup = Setup(3)
    lease = await setup.held("one", before)
    await lease.go_over(setup.nodes, after)
    await lease.verify()
    assert {lease_record.decode(node.objects[KEY]).seconds for node in setup.nodes.values()} == {after}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        with pytest.raises(LeaseHeldError, match="on one"):
            await setup.lease("two").acquire()
        await lease.verify()
        nursery.cancel_scope.cancel()
