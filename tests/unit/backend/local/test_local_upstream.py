"""The local upstream: what its lease, its log and its tasks do together when nodes fail."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.commits import lease_record
from backend.commits.commit_log import EMPTY
from backend.commits.commit_search import commit_key
from backend.commits.lease_votes import KEY
from backend.errors import ConflictError, FencedError, TransientError, UnavailableError
from backend.failpoints import OF_PROCESS
from backend.local.gate import Gate
from backend.local.local_upstream import LocalUpstream
from backend.system import Environment
from backend.upstream import Commit, Head
from tests.faulty_node import Fault, FaultyNode
from tests.memory_node import MemoryNode, memory_nodes
from tests.upstreams import LocalDrive, directory_nodes
from tools import compose


class Setup(LocalDrive):
    """A drive on nodes in memory whose faults can be switched."""

    def __init__(self) -> None:
        self.memory: dict[str, MemoryNode] = memory_nodes(6)
        super().__init__(
            self.memory,
            life="gone",
            environment=Environment(boot_clock=trio.current_time, failpoints=OF_PROCESS),
        )

    def lose(self, *numbers: int) -> None:
        for number, node in enumerate(self.memory.values()):
            node.away = number in numbers


async def append(upstream: LocalUpstream) -> Head:
    head = await upstream.log.head()
    return await upstream.log.append(
        Commit(head.number + 1, head.hash, 1, upstream.epoch, 0, (), (), b""), head
    )


async def test_two_nodes_away_neither_stop_nor_lose_anything() -> None:
    setup = Setup()
    setup.lose(0, 1)
    async with setup.opened() as upstream:
        await append(upstream)
        await upstream.roots.put_root("snapshot", b"x")
        head = await append(upstream)
    setup.lose(2, 3)
    async with setup.opened() as upstream:
        assert await upstream.log.head() == head
        assert await upstream.roots.get_root("snapshot") == [b"x"]


async def test_three_nodes_away_delay_an_append_and_no_more() -> None:
    setup = Setup()
    async with setup.opened() as upstream:
        head = await append(upstream)
        setup.lose(0, 1, 2)
        commit = Commit(2, head.hash, 1, upstream.epoch, 0, (), (), b"")
        with pytest.raises((UnavailableError, TransientError)):
            await upstream.log.append(commit, head)
        setup.lose()
        assert (await upstream.log.append(commit, head)).number == 2


async def test_opening_with_three_nodes_away_names_them_and_holds_nothing() -> None:
    setup = Setup()
    setup.lose(0, 1, 2)
    with pytest.raises(UnavailableError) as caught:
        await setup.make().open()
    assert caught.value.nodes == ("node0", "node1", "node2")
    assert not any(KEY in node.objects for node in setup.memory.values())


@pytest.mark.logs_warnings
async def test_lost_lease_records_do_not_bring_old_epochs_back() -> None:
    setup = Setup()
    for _ in range(3):
        async with setup.opened() as upstream:
            await append(upstream)
            last = upstream.epoch
    for node in setup.memory.values():
        node.objects.pop(KEY, None)
    async with setup.opened() as upstream:
        assert upstream.epoch == last + 1
        assert (await append(upstream)).number == 4


@pytest.mark.logs_warnings
async def test_a_map_that_changes_while_epochs_are_skipped_is_noticed() -> None:
    """The lease is given back for a moment then: who changes the nodes can have it."""
    setup = Setup()
    for _ in range(3):
        async with setup.opened() as upstream:
            await append(upstream)
    for node in setup.memory.values():
        node.objects.pop(KEY, None)
    in_force = [True, False]

    async def require_map() -> None:
        await trio.lowlevel.checkpoint()
        if not in_force.pop(0):
            raise ConflictError("the drive's nodes were changed just now")

    setup.require_map = require_map
    before = {name: dict(node.objects) for name, node in setup.memory.items()}
    with pytest.raises(ConflictError, match="changed just now"):
        await setup.make().open()
    for name, node in setup.memory.items():
        assert not lease_record.decode(node.objects.pop(KEY)).held
        assert node.objects == before[name]


@pytest.mark.logs_warnings
async def test_damaged_commits_are_mended_in_the_background() -> None:
    setup = Setup()
    async with setup.opened() as upstream:
        await append(upstream)
        await append(upstream)
    key = commit_key(1)
    for name in setup.ranking()(key.encode())[:2]:
        setup.memory[name].damage(key)
    async with setup.opened() as upstream:
        assert len(await upstream.log.commits_after(0)) == 2
        with trio.fail_after(5):
            while len((await setup.objects().find_all(key)).good) < 3:
                await trio.testing.wait_all_tasks_blocked()


@pytest.mark.logs_warnings
async def test_a_lost_commit_ends_no_mending_in_the_background() -> None:
    setup = Setup()
    async with setup.opened() as upstream:
        heads = [await append(upstream) for _ in range(6)]
    lost, thin, later = (commit_key(number) for number in (3, 2, 5))
    for node in setup.memory.values():
        if lost in node.objects:
            node.damage(lost)
    del setup.memory[setup.ranking()(thin.encode())[0]].objects[thin]
    async with setup.opened(known=heads[-1]) as upstream:
        await trio.testing.wait_all_tasks_blocked()
        setup.memory[setup.ranking()(later.encode())[0]].damage(later)
        assert len(await upstream.log.commits_after(4)) == 2
        with trio.fail_after(5):
            while (await setup.objects().find_all(later)).damaged:
                await trio.testing.wait_all_tasks_blocked()


async def test_what_cannot_be_mended_is_tried_after_longer_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A node that went away may have the copy that is lacking."""
    setup = Setup()
    async with setup.opened() as upstream:
        heads = [await append(upstream) for _ in range(3)]
    thin = commit_key(2)
    rank = setup.ranking()(thin.encode())
    del setup.memory[rank[0]].objects[thin]
    gone, tries = setup.memory[rank[5]], list[float]()

    async def before(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if (operation, key) == ("get", thin):
            tries.append(round(trio.current_time()))
            gone.away = True

    gone.before = before
    async with setup.opened(known=heads[-1]):
        await trio.sleep(3600)
        times = sorted(set(tries))
        pauses = [after - earlier for earlier, after in pairwise(times)]
        assert pauses[:4] == [pauses[0] * factor for factor in (1, 2, 4, 8)]
        assert set(pauses[4:]) == {16 * pauses[0]}
        gone.before, gone.away = setup.memory[rank[4]].before, False
        await trio.sleep(16 * pauses[0])
        assert len((await setup.objects().find_all(thin)).good) == 3


async def test_who_closes_the_gate_does_not_wait_until_all_is_mended() -> None:
    setup = Setup()
    setup.gate = Gate()
    async with setup.opened() as upstream:
        heads = [await append(upstream) for _ in range(6)]
    thin = [commit_key(number) for number in (2, 3, 4)]
    for key in thin:
        del setup.memory[setup.ranking()(key.encode())[0]].objects[key]
    begun, waiting = trio.Event(), trio.Event()

    async def before(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if operation == "create" and key in thin:
            begun.set()
            await waiting.wait()

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked()
        waiting.set()

    for node in setup.memory.values():
        node.before = before
    async with setup.opened(known=heads[-1]):
        with trio.fail_after(5):
            await begun.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(release)
                async with setup.gate.closed():
                    copies = [len((await setup.objects().find_all(key)).good) for key in thin]
                    assert sorted(copies) == [2, 2, 3]


async def test_a_root_that_is_put_while_it_is_mended_stays() -> None:
    setup = Setup()
    key = "roots/snapshot"
    async with setup.opened() as upstream:
        await upstream.roots.put_root("snapshot", b"older" * 100)
        holders = [node for node in setup.memory.values() if key in node.objects]
        holders[0].damage(key)
        begun, waiting = trio.Event(), trio.Event()

        async def before(operation: str, _key: str) -> None:
            await trio.lowlevel.checkpoint()
            if operation == "swap" and not begun.is_set():
                begun.set()
                await waiting.wait()

        holders[0].before = before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstream.roots.mend, key)
            await begun.wait()
            nursery.start_soon(upstream.roots.put_root, "snapshot", b"newer" * 100)
            await trio.testing.wait_all_tasks_blocked()
            waiting.set()
        assert await upstream.roots.get_root("snapshot") == [b"newer" * 100]


async def test_a_mount_that_is_fenced_still_reads() -> None:
    setup = Setup()
    async with setup.opened() as old:
        await append(old)
        async with setup.opened() as new:
            await append(new)
            with pytest.raises(FencedError):
                await append(old)
            assert len(await old.log.commits_after(0)) == 1


@pytest.mark.parametrize(
    "place",
    ["commit.before-copies", "commit.after-first-copy", "commit.after-copies", "commit.after-fence"],
)
async def test_after_a_crash_within_append_the_next_mount_goes_on(place: str, tmp_path: Path) -> None:
    """The crash leaves the lease held and the commit in any state; here on real directories."""
    drive = LocalDrive(directory_nodes(tmp_path), life="gone")
    crashed = drive.make(host="crashed")
    await crashed.open()
    OF_PROCESS.arm(place, "eio")
    with pytest.raises(OSError, match=place):
        await append(crashed)
    OF_PROCESS.disarm_all()
    async with drive.opened() as upstream:
        found = await upstream.log.head()
        assert found.number == (0 if place == "commit.before-copies" else 1)
        head = await append(upstream)
        with pytest.raises(FencedError):
            await append(crashed)
    async with drive.opened(known=head) as upstream:
        assert await upstream.log.head() == head


@pytest.mark.parametrize("place", ["lease.before-takeover", "lease.after-acquire", "commit.before-settle"])
async def test_after_a_crash_within_a_takeover_the_next_mount_goes_on(place: str) -> None:
    setup = Setup()
    crashed = setup.make(host="one")
    await crashed.open()
    head = await append(crashed)
    OF_PROCESS.arm(place, "eio")
    with pytest.raises(OSError, match=place):
        await setup.make(host="two").open()
    OF_PROCESS.disarm_all()
    async with setup.opened(known=head) as upstream:
        assert await upstream.log.head() == head
        assert (await append(upstream)).number == 2


async def test_the_lease_is_renewed_while_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    async with setup.opened() as upstream:
        before = setup.memory["node0"].objects[KEY]
        await trio.sleep(11)
        assert setup.memory["node0"].objects[KEY] != before
        await append(upstream)


async def test_the_lease_is_renewed_while_the_index_is_made_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An index that is made anew from many packs, or from slow nodes, takes longer than the lease lasts."""
    setup = Setup()
    upstream = setup.make()
    await upstream.open()
    before = setup.memory["node0"].objects[KEY]
    await upstream.prepare(partial(trio.sleep, 300))
    assert lease_record.decode(setup.memory["node0"].objects[KEY]).renewals >= 10
    assert setup.memory["node0"].objects[KEY] != before
    with pytest.raises(ValueError, match="as it is"):
        await upstream.prepare(_fails)
    await append(upstream)
    await upstream.close()


async def _fails() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("as it is, in no group")


async def test_nodes_that_come_back_after_the_lease_ran_out_can_be_written_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setup = Setup()
    async with setup.opened() as upstream:
        await append(upstream)
        setup.lose(0, 1, 2)
        await trio.sleep(100)
        for call in (
            partial(append, upstream),
            upstream.blocks.flush,
            partial(upstream.roots.put_root, "snapshot", b"x"),
        ):
            with pytest.raises(UnavailableError) as caught:
                await call()
            assert caught.value.nodes == ("node0", "node1", "node2")
        setup.lose()
        before = trio.current_time()
        await upstream.blocks.flush()
        await append(upstream)
        assert trio.current_time() == before


FAULTS = {
    "hangs": (Fault(delay=math.inf), compose.LEASE_PATIENCE),
    "takes 4 s for each answer": (Fault(delay=4.0), compose.LEASE_PATIENCE),
    "hangs for what is no lease": (Fault(pattern="commits/|roots/", delay=math.inf), compose.OBJECT_PATIENCE),
    "hangs when the lease is taken": (Fault(("swap",), "lease", delay=math.inf), compose.LEASE_PATIENCE),
    "takes 4 s to take the lease": (Fault(("swap",), "lease", delay=4.0), compose.LEASE_PATIENCE),
    "hangs when it is written": (Fault(("create", "put"), delay=math.inf), compose.OBJECT_PATIENCE),
    "lists late": (Fault(("keys",), delay=14.0), compose.OBJECT_PATIENCE),
    "reads late": (Fault(("get",), "commits/", delay=14.0), compose.OBJECT_PATIENCE),
}


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("writing", [True, False])
async def test_one_slow_voter_costs_one_round_of_patience(
    fault: str, at: int, writing: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Until all that a mount reads first is there: lease, log and the root of the snapshot."""
    nodes = {name: FaultyNode(node) for name, node in memory_nodes(5).items()}
    here = Environment(boot_clock=trio.current_time)
    drive = LocalDrive(nodes, life="gone", environment=here, is_patient=True)
    last = drive.make()
    await last.open()
    for _ in range(3):
        head = await append(last)
    await last.roots.put_root("snapshot", b"x")
    happens, patience = FAULTS[fault]
    nodes[f"node{at}"].faults = [replace(happens)]
    upstream = drive.make(writing=writing)
    begun = trio.current_time()
    assert await upstream.open() == head
    assert len(await upstream.log.commits_after(0)) == 3
    assert await upstream.roots.get_root("snapshot") == [b"x"]
    assert trio.current_time() - begun <= patience + 0.1


async def test_closing_gives_the_lease_back() -> None:
    setup = Setup()
    setup.life = "running"
    async with setup.opened() as upstream:
        assert upstream.epoch == 1
    async with setup.opened() as upstream:
        assert upstream.epoch == 2
        assert await upstream.log.head() == EMPTY
