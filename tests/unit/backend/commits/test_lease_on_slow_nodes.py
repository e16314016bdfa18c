"""The lease on voters that are slow and live: on a busy machine one disk, which all of them lie on, may
answer nobody for longer than a single voter is worth waiting for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.commits import LONGEST_PATIENCE, PATIENCE, Lease
from backend.errors import DriveError, NodeError, OverdueError, UnavailableError
from backend.nodes import Node, PatientNode, RetryNode
from backend.nodes.forwarding import ForwardingNode
from backend.system import Environment
from tests.leases import DRIVE, HOLDER, SECRET
from tests.memory_node import memory_nodes

VOTERS: Final = 5
Result = TypeVar("Result")


class BusyDisk:
    """What all voters of a drive lie on. Each of their calls takes `seconds`, and those that meet the stall
    (its beginning and its end) end with it."""

    def __init__(self, seconds: float = 0.0, stall: tuple[float, float] = (0.0, 0.0)) -> None:
        self.seconds = seconds
        begun = trio.current_time()
        self.begins, self.ends = (begun + each for each in stall)

    async def work(self) -> None:
        end = trio.current_time() + self.seconds
        if end > self.begins and trio.current_time() < self.ends:
            end = max(end, self.ends)
        await trio.sleep_until(end)


class NodeOnDisk(ForwardingNode):
    """Whose calls go on when nobody waits for them any more, as those of threads do. While one is given up,
    it answers no other: as `PatientNode`, which sees that of threads only."""

    def __init__(self, node: Node, disk: BusyDisk) -> None:
        super().__init__(node)
        self._disk = disk
        self._given_up = 0

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._behind(partial(self._node.get, key, offset, length))

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        await self._behind(partial(self._node.swap, key, expected, new))

    async def _behind(self, call: Callable[[], Awaitable[Result]]) -> Result:
        if self._given_up:
            raise OverdueError("an earlier call is not answered yet", self.name)
        results: list[Result] = []
        errors: list[DriveError] = []
        ended = trio.Event()

        async def work() -> None:
            await self._disk.work()
            try:
                results.append(await call())
            except DriveError as error:
                errors.append(error)
            ended.set()

        trio.lowlevel.spawn_system_task(work)
        try:
            await ended.wait()
        except trio.Cancelled:
            trio.lowlevel.spawn_system_task(self._overdue, ended)
            raise
        for error in errors:
            raise error
        return results[0]

    async def _overdue(self, ended: trio.Event) -> None:
        self._given_up += 1
        await ended.wait()
        self._given_up -= 1


def lease_on(
    disk: BusyDisk, told: list[str], *, is_patient: bool = False, voters: int = VOTERS
) -> tuple[Lease, dict[str, Node]]:
    """As tools and mounts put it together."""
    nodes: dict[str, Node] = {name: NodeOnDisk(node, disk) for name, node in memory_nodes(voters).items()}
    patience = LONGEST_PATIENCE if is_patient else PATIENCE
    lease = Lease(
        {name: RetryNode(PatientNode(node, patience)) for name, node in nodes.items()},
        DRIVE,
        SECRET,
        HOLDER,
        life=lambda *_: "running",
        waiting=told.append,
        environment=Environment(boot_clock=trio.current_time),
        is_patient=is_patient,
    )
    return lease, nodes


@given(st.floats(0.0, 5.0), st.floats(0.0, 25.0), st.floats(0.0, 2.0), st.booleans())
def test_a_disk_that_answers_nobody_for_a_while_costs_no_lease(
    begins: float, lasts: float, each: float, is_patient: bool
) -> None:
    """Also where what was written meanwhile comes late: that is no other holder's."""

    async def hold() -> None:
        told: list[str] = []
        lease, _ = lease_on(BusyDisk(each, (begins, begins + lasts)), told, is_patient=is_patient)
        await lease.acquire()
        await lease.verify()
        assert len(told) <= 1
        assert trio.current_time() < begins + lasts + 20

    trio.run(hold, clock=trio.testing.MockClock(autojump_threshold=0))


@given(st.floats(0.0, 14.0))
def test_a_tool_holds_the_lease_of_a_drive_whose_every_call_takes_long(each: float) -> None:
    async def hold() -> None:
        lease, _ = lease_on(BusyDisk(each), [], is_patient=True)
        await lease.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease.run)
            for _ in range(100):
                await trio.sleep(7)
                lease.check()
            await lease.verify()
            nursery.cancel_scope.cancel()
        await lease.release()

    trio.run(hold, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(("is_patient", "seconds"), [(False, 30), (True, 120)])
async def test_who_never_answers_is_named_with_what_to_do(
    is_patient: bool, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[str] = []
    lease, nodes = lease_on(BusyDisk(math.inf), told, is_patient=is_patient)
    with pytest.raises(UnavailableError, match="only busy, try again") as caught:
        await lease.acquire()
    names = ", ".join(nodes)
    assert f"no answer came from {names}" in str(caught.value)
    assert told == [f"no answer yet from {names}; waiting {seconds} s at most"]
    assert seconds <= trio.current_time() <= seconds * 1.5


async def test_voters_that_say_why_they_cannot_are_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One is silent: with the one that answers it could not make up a majority, as the others are missing."""
    told: list[str] = []
    lease, nodes = lease_on(BusyDisk(), told)
    silent = BusyDisk(math.inf)

    async def missing(*_: object) -> bytes:
        raise NodeError("its folder is missing", "some")

    for number, node in enumerate(nodes.values()):
        assert isinstance(node, NodeOnDisk)
        if number < 3:
            vars(node)["get"] = missing
        elif number < 4:
            vars(node)["_disk"] = silent
    with pytest.raises(UnavailableError, match="the lease needs 3 of 5 nodes"):
        await lease.acquire()
    assert (told, trio.current_time()) == ([], PATIENCE)
