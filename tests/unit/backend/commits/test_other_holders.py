"""The other holders of a lease: takeover of the dead and not of the living, and who is waited for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from backend.commits import lease_record
from backend.commits.lease import Lease
from backend.commits.lease_votes import KEY
from backend.commits.process_identity import Life
from backend.errors import (
    FencedError,
    LeaseHeldError,
    UnavailableError,
)
from tests.leases import DRIVE, HOLDER, RECORD, SECRET, Setup, stored


async def test_a_living_holder_of_this_machine_is_refused_at_once() -> None:
    setup = Setup()
    await setup.held("one")
    setup.life = "running"
    started = trio.current_time()
    with pytest.raises(LeaseHeldError, match=r"mounted by process 7 on one, at least until \d{4}-.*Z"):
        await setup.lease("two").acquire()
    assert trio.current_time() - started < 1


async def test_a_holder_of_this_boot_that_is_gone_is_taken_over_at_once() -> None:
    setup = Setup()
    old = await setup.held("one")
    setup.life = "gone"
    started = trio.current_time()
    new = await setup.held("two")
    assert trio.current_time() - started < 1
    assert new.epoch == 2
    with pytest.raises(FencedError):
        await old.verify()
    with pytest.raises(FencedError, match="taken over"):
        old.check()
    assert old.lost.is_set()


@pytest.mark.parametrize("life", ["elsewhere", "stopped"])
async def test_a_silent_holder_is_outlived(life: Life, autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    setup.life = life
    old = await setup.held("one")
    started = trio.current_time()
    new = await setup.held("two")
    assert trio.current_time() - started >= 30
    await new.verify()
    with pytest.raises(FencedError):
        await old.renew()


@pytest.mark.parametrize("life", ["elsewhere", "stopped"])
@pytest.mark.parametrize("duration", [30, 120])
async def test_who_waits_for_a_silent_holder_is_told_after_two_seconds(
    life: Life, duration: float, autojump_clock: trio.testing.MockClock
) -> None:
    """For how long the holder may be silent is said by its record, not by who looks."""
    setup = Setup()
    setup.life = life
    await setup.held("one", duration)
    told: list[tuple[float, str]] = []
    started = trio.current_time()
    waiter = setup.lease("two", lambda text: told.append((trio.current_time() - started, text)))
    await waiter.acquire()
    ((when, text),) = told
    assert 2 <= when <= 4
    assert "process 7 on one" in text
    seconds = re.search(r"(\d+) s at most", text)
    assert seconds is not None
    assert abs(trio.current_time() - started - when - int(seconds[1])) < 2
    assert trio.current_time() - started >= duration


async def test_a_long_lease_that_was_given_back_is_not_outlived() -> None:
    setup = Setup()
    old = await setup.held("one", 120)
    await old.release()
    with trio.fail_after(10):
        assert await setup.lease("two").acquire() == 2


async def test_a_holder_elsewhere_that_renews_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    old = await setup.held("one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(old.run)
        with pytest.raises(LeaseHeldError, match="on one"):
            await setup.lease("two").acquire()
        await trio.sleep(1000)
        old.check()
        await old.verify()
        nursery.cancel_scope.cancel()


async def test_wall_clocks_do_not_matter(autojump_clock: trio.testing.MockClock) -> None:
    """A record that says it ran out in 1970 is a living holder's if it is being renewed."""
    setup = Setup()
    await setup.held("one")
    for node in setup.nodes.values():
        record = lease_record.decode(node.objects[KEY])
        node.objects[KEY] = stored(replace(record, until_ns=0))
    started = trio.current_time()
    await setup.held("two")
    assert trio.current_time() - started >= 30


async def test_what_a_failed_attempt_left_does_not_hide_the_holder() -> None:
    """A dead attempt with a higher epoch on few nodes must not let the living holder be overtaken."""
    setup = Setup()
    await setup.held("one")
    attempt = replace(RECORD, epoch=9, token="dead", holder=replace(HOLDER, host="dead"))
    setup.nodes["node0"].objects[KEY] = stored(attempt)
    lease = Lease(
        setup.nodes,
        DRIVE,
        SECRET,
        replace(HOLDER, host="two"),
        life=lambda holder, observer: "gone" if holder.host == "dead" else "running",
    )
    with pytest.raises(LeaseHeldError, match="on one"):
        await lease.acquire()


async def test_a_holder_on_one_node_that_answers_late_is_not_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What a lost majority left: the one node that knows the holder hangs, so nothing is known of any."""
    setup = Setup()
    setup.nodes["node4"].objects[KEY] = stored(RECORD)
    setup.life = "running"

    async def hang(_operation: str, _key: str) -> None:
        await trio.sleep_forever()

    answering, setup.nodes["node4"].before = setup.nodes["node4"].before, hang
    with pytest.raises(UnavailableError, match="node4: no answer"):
        await setup.lease().outlive_all()
    setup.nodes["node4"].before = answering
    with pytest.raises(LeaseHeldError, match="on host"):
        await setup.lease().outlive_all()


async def test_where_there_is_no_holder_each_voter_is_asked_once() -> None:
    setup = Setup()
    asked = Counter[str]()

    def counting(name: str) -> Callable[[str, str], Awaitable[None]]:
        async def count(operation: str, _key: str) -> None:
            await trio.lowlevel.checkpoint()
            asked[f"{operation} {name}"] += 1

        return count

    for name, node in setup.nodes.items():
        node.before = counting(name)
    await setup.lease().outlive_all()
    assert asked == dict.fromkeys((f"get {name}" for name in setup.nodes), 1)
