"""One run of the simulator: machines that take the lease from each other without mercy, over failing voters.

The real `Lease`, `ReplicatedCommitLog`, `LocalUpstream` and `ObjectRebalance` run here, on trio's mock clock
and with every draw from one seed: the same seed is the same run. Nobody is ever known to live, so that a
lease protects nothing but by its rules. `History` says what may never happen.
"""

from __future__ import annotations

import copy
import copyreg
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar, cast

import trio
import trio.testing

from backend.blocks import PackedBlockStore
from backend.cluster import ObjectRebalance
from backend.coding import ClusterMap, ClusterNode, copies_of, first_voters, next_voter, voters
from backend.commits import (
    DEFAULT_SECONDS,
    REMEMBERED,
    Lease,
    LeaseVotes,
    ReplicatedCommitLog,
    ReplicatedObjects,
    ranking_of,
)
from backend.commits.lease_record import Holder
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    FencedError,
    LeaseHeldError,
    NodeError,
    RollbackError,
    TransientError,
    UnavailableError,
    UsageError,
)
from backend.local import LocalUpstream, SessionWriter
from backend.nodes import Node, NodeHealth, RetryNode
from backend.system import Environment
from backend.upstream import Commit, CompactionReport, Head
from tests.simulation.history import History, Violation
from tests.simulation.world import Chances, Link, Voter

T = TypeVar("T")

DRIVE: Final = bytes(range(16))
SECRET: Final = bytes(range(32))
HOLDER: Final = Holder("machine", "boot", "ns", 1, 1, "host")
M: Final = 2
K: Final = 4
EXPECTED: Final = (ConflictError, FencedError, LeaseHeldError, NodeError, TransientError, UnavailableError)
SECONDS: Final = 240.0
"""virtual seconds of one run"""
PATIENCE: Final = 200.0
"""after which what was sent late has landed"""


def random_bytes(count: int) -> bytes:
    """As the seed says (`deterministic`). Not the method itself: a clone would have a copy of its state, and
    draw the same."""
    return random.randbytes(count)


ENVIRONMENT: Final = Environment(boot_clock=trio.current_time, random_bytes=random_bytes)
"""Of all machines."""


@dataclass(frozen=True)
class Plan:
    """What a seed decides before anything happens."""

    seed: int
    nodes: int
    zones: int
    machines: int
    likely: dict[str, float]
    map_changes: bool


def plan_of(seed: int) -> Plan:
    """The plan of a seed: each kind of fault is on in some runs and off in others."""
    draw = random.Random(seed)
    likely = {
        "delay": 0.03,
        "lost request": 0.02,
        "lost answer": 0.03,
        "late write": 0.03,
        "late get": 0.05,
        "late list": 0.3,
        "torn writer": 0.5,
        "stopped writer": 0.15,
        "clone": 0.1,
    }
    chosen = {kind: chance for kind, chance in likely.items() if draw.random() < 0.6}
    nodes, zones = draw.choice(((6, 6), (6, 6), (12, 3), (7, 7), (6, 3)))
    return Plan(seed, nodes, zones, draw.randint(2, 4), chosen, draw.random() < 0.3)


@dataclass
class Outcome:
    """What a run met."""

    takeovers: int = 0
    acknowledged: int = 0
    met: Counter[str] = field(default_factory=Counter)


class World:
    """What all machines share."""

    def __init__(self, plan: Plan, background: trio.Nursery) -> None:
        self.plan = plan
        self.draw = random.Random(plan.seed ^ 0x5EED)
        self.chances = Chances(self.draw, plan.likely)
        self.background = background
        self.history = History()
        self.voters = {
            f"node{at}": Voter(f"node{at}", f"zone{at % plan.zones}") for at in range(plan.nodes + 2)
        }
        names = list(self.voters)[: plan.nodes]
        self.map = self.map_of(1, names)
        self.away: set[str] = set()
        self.behind: dict[str, float] = {}
        """for a machine: by how many seconds all that it reads is late"""
        self.epochs = 0
        self.takeovers = 0
        self.blocks: dict[int, set[int]] = {}
        self.calm = False

    def map_of(self, epoch: int, names: list[str], votes: list[str] | None = None) -> ClusterMap:
        """A cluster map of these nodes; the voters are those of a new drive if none are given."""
        nodes = [ClusterNode(name, self.voters[name].zone) for name in names]
        chosen = first_voters(nodes, M) if votes is None else votes
        return ClusterMap(epoch, tuple(replace(node, votes=node.name in chosen) for node in nodes))

    def lateness(self, machine: str) -> float:
        """By how many seconds all that the machine reads now is late."""
        return self.behind.get(machine, 0.0)

    def is_away(self, machine: str, name: str) -> bool:
        """Whether the node does not answer that machine now."""
        return name in self.away or f"{machine} {name}" in self.away


class Blocks:
    """What stands in for the block store: a block is K + M fragments, which compaction deletes one by one."""

    def __init__(self, world: World, writer: SessionWriter) -> None:
        self._world = world
        self._writer = writer
        self.released: set[int] = set()

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        self._writer.require_deleting()
        for block in sorted(self.released)[-1:]:
            for fragment in sorted(self._world.blocks.get(block, ())):
                await self._writer.verify()
                if self._world.chances.strikes("stopped writer"):
                    await trio.sleep(self._world.draw.uniform(1, 60))
                self._world.blocks[block].discard(fragment)
        return CompactionReport()

    async def close(self) -> None:
        return None


@dataclass
class Mount:
    """One session of one machine."""

    name: str
    world: World
    lease: Lease
    every: dict[str, Node]
    objects: ReplicatedObjects
    log: ReplicatedCommitLog
    upstream: LocalUpstream
    blocks: Blocks
    map: ClusterMap
    confirmed: list[str]
    """who of this session's clones was confirmed since it was cloned"""


def mount_of(world: World, name: str, cluster: ClusterMap) -> Mount:
    """A session that is not opened, put together as `tools.compose` does."""
    every = {node.name: _link(world, name, node.name) for node in cluster.nodes}
    nodes = {name: every[name] for name in voters(cluster)}
    copies = copies_of(cluster, M)
    health = NodeHealth(REMEMBERED)
    objects = ReplicatedObjects(nodes, ranking_of(cluster, copies), copies, DRIVE, SECRET, health)
    lease = Lease(
        nodes,
        DRIVE,
        SECRET,
        replace(HOLDER, host=name),
        environment=ENVIRONMENT,
        map_epoch=cluster.epoch,
        life=lambda holder, observer: "gone",
        health=health,
    )
    log = ReplicatedCommitLog(objects, lease.verify, lease.claimed, environment=ENVIRONMENT)
    writer = SessionWriter(lease)
    blocks = Blocks(world, writer)
    require_map = partial(_require_map, world, cluster)
    upstream = LocalUpstream(cast(PackedBlockStore, blocks), log, objects, writer, require_map=require_map)
    return Mount(name, world, lease, every, objects, log, upstream, blocks, cluster, [])


def _link(world: World, machine: str, name: str) -> Node:
    """The node of that name as the machine reaches it."""
    link = Link(
        world.voters[name],
        world.chances,
        world.background,
        partial(world.is_away, machine),
        partial(world.lateness, machine),
    )
    return RetryNode(link, environment=ENVIRONMENT)


async def _require_map(world: World, cluster: ClusterMap) -> None:
    """What `drive.toml` says, read again."""
    await trio.lowlevel.checkpoint()
    if world.map is not cluster:
        raise ConflictError("the drive's nodes were changed just now")


async def open_mount(mount: Mount, known: Head | None) -> Head:
    """As `tools.compose` opens."""
    world = mount.world
    at_least = world.history.acknowledged
    head = await mount.upstream.open(known=known)
    world.takeovers += 1
    world.epochs = max(world.epochs, mount.lease.epoch)
    world.history.note_found(head, at_least, mount.name)
    world.history.note_acknowledged(head, mount.name)
    return head


async def machine(world: World, name: str) -> None:
    """A machine that mounts again and again, and is stopped, torn and cloned meanwhile."""
    known: Head | None = None
    while not world.calm:
        cluster = world.map
        if world.draw.random() < 0.1:
            await trio.sleep(world.draw.uniform(0, 60))  # it waits for a passphrase
        mount = mount_of(world, name, cluster)
        life = world.draw.uniform(0.5, 40) if world.chances.strikes("torn writer") else 1000.0
        with trio.move_on_after(life):
            try:
                known = await open_mount(mount, known)
                known = await session(mount, known)
            except EXPECTED:
                pass
            except (CorruptError, RollbackError) as error:
                _judge_error(world, error)
        if world.draw.random() < 0.5:
            with trio.move_on_after(5):
                await mount.lease.release()
        await trio.sleep(world.draw.uniform(0, 3))


def _judge_error(world: World, error: DriveError) -> None:
    if "late get" not in world.plan.likely:
        raise Violation(f"a log that lost nothing is said to be damaged: {error}") from error


async def session(mount: Mount, head: Head) -> Head:
    """Appends, with renewals and collections between them; what was known last."""
    world = mount.world
    for _ in range(world.draw.choice((0, 1, 1, 2))):
        if world.chances.strikes("stopped writer"):
            await trio.sleep(world.draw.choice((1, 40)) * world.draw.random())
        if world.chances.strikes("clone"):
            world.background.start_soon(_clone_lives, cloned(mount), head)
        head = await append(mount, head)
        if world.draw.random() < 0.1:
            await collect(mount, head)
        if world.draw.random() < 0.3:
            await confirm(mount)
            with suppress(TransientError, UnavailableError):
                await mount.lease.renew()
        if world.plan.map_changes and world.draw.random() < 0.2:
            await change_in_use(mount)
    return head


async def append(mount: Mount, head: Head) -> Head:
    """One commit, tried again until its fate is known."""
    world = mount.world
    blocks = set(world.history.blocks_of(head))
    whole = [block for block, left in world.blocks.items() if len(left) >= K]
    old = [block for block in whole if block not in blocks | mount.blocks.released]
    if old and world.draw.random() < 0.5:
        blocks.add(world.draw.choice(old))
    else:
        block = len(world.blocks)
        world.blocks[block] = set(range(K + M))
        blocks.add(block)
    while len(blocks) > 3:
        blocks.discard(min(blocks))
    payload = world.draw.randbytes(4)
    commit = Commit(head.number + 1, head.hash, 1, mount.upstream.epoch, 0, (), (), payload)
    world.history.note_made(commit, blocks)
    for _ in range(6):
        with suppress(TransientError, UnavailableError):
            with confirming(mount):
                found = await mount.upstream.log.append(commit, head)
            world.history.note_acknowledged(found, mount.name)
            return found
        await trio.sleep(world.draw.uniform(0, 2))
    raise TransientError("given up")


async def collect(mount: Mount, head: Head) -> None:
    """Delete what nothing retained names, as `cache.retention` does: after a commit of this session."""
    world = mount.world
    needed = world.history.blocks_of(head)
    mount.blocks.released = {block for block, left in world.blocks.items() if left and block not in needed}
    with suppress(UsageError):
        await mount.blocks.compact(0, 0, debris=False)


async def confirm(mount: Mount) -> None:
    """Ask for the lease, and judge the answer."""
    before = mount.world.epochs
    with confirming(mount):
        await mount.lease.verify()
    if mount.lease.epoch < before:
        raise Violation(f"{mount.name} was told that epoch {mount.lease.epoch} holds, after {before}")


@contextmanager
def confirming(mount: Mount) -> Iterator[None]:
    """Who is confirmed here, by a call that began after its clone was confirmed, is one too many."""
    confirmed = mount.confirmed
    others = [name for name in confirmed if name != mount.name]
    yield
    if others and confirmed is mount.confirmed:
        raise Violation(f"{mount.name} was confirmed after {others[0]}, which is the same process")
    confirmed.append(mount.name)


def clone_of(original: T, shared: Iterable[object]) -> T:
    """A deep copy that shares these objects with the original. Nobody waits for what its tasks wait for."""
    return copy.deepcopy(original, {id(each): each for each in shared})


def _idle(primitive: object) -> tuple[type[object], tuple[int, ...]]:
    """For `copy`: one that nobody holds or waits for."""
    return type(primitive), (1,) if isinstance(primitive, trio.CapacityLimiter) else ()


for _kind in (trio.Event, trio.Lock, trio.CancelScope, trio.CapacityLimiter):
    copyreg.pickle(_kind, _idle)


def cloned(mount: Mount) -> Mount:
    """The same process once more, from this moment on, as when a machine's snapshot is resumed twice."""
    mount.confirmed = []
    shared = (mount.world, mount.confirmed, mount.map, *mount.every.values())
    twin = clone_of(mount, shared)
    twin.name = f"{mount.name}'s clone"
    return twin


async def _clone_lives(mount: Mount, head: Head) -> None:
    with suppress(*EXPECTED):
        for _ in range(mount.world.draw.randint(1, 3)):
            await trio.sleep(mount.world.draw.uniform(0, 5))
            head = await append(mount, head)
            await confirm(mount)


async def lose_nodes(world: World) -> None:
    """Up to m nodes, or a whole zone, are away for a while; some for one machine only."""
    while not world.calm:
        names = [node.name for node in world.map.nodes]
        lost = world.draw.sample(names, world.draw.randint(0, M))
        if world.draw.random() < 0.2:
            zone = world.draw.choice(world.map.nodes).zone
            lost = [node.name for node in world.map.nodes if node.zone == zone]
        alone = f"machine{world.draw.randint(0, 3)} " if world.draw.random() < 0.5 else ""
        world.away = {alone + name for name in lost}
        world.behind.clear()
        if "late get" in world.plan.likely and world.draw.random() < 0.5:
            world.behind[f"machine{world.draw.randint(0, 3)}"] = world.draw.uniform(0, 60)
        await trio.sleep(world.draw.uniform(0.1, 20))
    world.away = set()


@dataclass(frozen=True)
class Change:
    """The next map: all nodes, those that vote, and the one that is emptied before, if one goes."""

    names: list[str]
    votes: list[str]
    leaving: str | None = None


def next_change(world: World) -> Change:
    """One node or one vote comes or goes."""
    names, votes = [node.name for node in world.map.nodes], voters(world.map)
    spare = [name for name in world.voters if name not in names]
    if (name := next_voter(world.map, M, names)) is not None:
        return Change(names, [*votes, name])
    if spare and (world.draw.random() < 0.5 or len(names) == world.plan.nodes):
        return Change([*names, world.draw.choice(spare)], votes)
    leaving = world.draw.choice(names)
    stay, votes = ([name for name in each if name != leaving] for each in (names, votes))
    return Change(stay, votes, leaving)


async def change_map(world: World) -> None:
    """Now and then, by a tool; what lies on the nodes moves."""
    while not world.calm:
        await trio.sleep(world.draw.uniform(20, 120))
        change = next_change(world)
        with suppress(*EXPECTED), trio.move_on_after(world.draw.uniform(5, 200)):
            await _change_to(world, change)


async def _change_to(world: World, change: Change) -> None:
    """As `drivefs node` does: a node that goes is emptied before."""
    old = world.map
    mount = mount_of(world, "changer", old)
    await mount.lease.acquire()
    try:
        if world.map is not old:
            return
        if change.leaving is not None:
            await _move(world, mount, mount.log, change.leaving)
        if await _put_in_force(mount, change):
            await mount.lease.announce(world.map.epoch)
    finally:
        with trio.move_on_after(5, shield=True):
            await mount.lease.release()


async def change_in_use(mount: Mount) -> None:
    """As a mount does with its own nodes (`HeldDrive.put_in_force`, `RunningNodes.go_over`): its lease goes
    over to the new voters, and it goes on."""
    world = mount.world
    if world.map is not mount.map:
        return
    change = next_change(world)
    if change.leaving is not None:
        log = ReplicatedCommitLog(mount.objects, claims=mount.lease.claimed, environment=ENVIRONMENT)
        await _move(world, mount, log, change.leaving)
    if not await _put_in_force(mount, change):
        return
    world.chances.met["map change in use"] += 1
    mount.map = world.map
    for name in change.names:
        mount.every.setdefault(name, _link(world, mount.name, name))
    nodes = {name: mount.every[name] for name in voters(mount.map)}
    copies = copies_of(mount.map, M)
    await mount.lease.go_over(nodes, DEFAULT_SECONDS)
    mount.objects.have(nodes, ranking_of(mount.map, copies), copies)
    with suppress(TransientError, UnavailableError):
        await mount.lease.announce(mount.map.epoch)


async def _put_in_force(mount: Mount, change: Change) -> bool:
    """Replace the map under the lease; whether it was still the one that the lease is of."""
    world, old = mount.world, mount.map
    await mount.lease.verify()
    if world.chances.strikes("stopped writer"):
        await trio.sleep(world.draw.uniform(0, 60))
    if world.map is not old:
        return False
    world.map = world.map_of(old.epoch + 1, change.names, change.votes)
    world.chances.met["map change"] += 1
    return True


async def _move(world: World, mount: Mount, log: ReplicatedCommitLog, leaving: str) -> None:
    """Nothing is to be on that node."""
    nodes = tuple(replace(node, weight=float(node.name != leaving)) for node in mount.map.nodes)
    copies = copies_of(mount.map, M)
    ranking = ranking_of(ClusterMap(mount.map.epoch, nodes), copies, everyone=True)
    objects = ReplicatedObjects(mount.every, ranking, copies, DRIVE, SECRET)
    moving = ObjectRebalance(objects, mount.every, ranking, log, mount.lease.verify, environment=ENVIRONMENT)
    try:
        await moving.run(lambda done, of: None)
    except CorruptError as error:
        raise TransientError(str(error)) from error
    for commit in await mount.every[leaving].keys("commits/"):
        raise TransientError(f"{commit} is on the node that is to go")


async def final_check(world: World) -> None:
    """With all nodes back: what was acknowledged is there, whole; and with a minority away it opens."""
    world.calm = True
    world.away = set()
    world.behind.clear()
    await trio.sleep(PATIENCE)
    world.chances.likely = {}
    at_least = world.history.acknowledged
    reading = mount_of(world, "reader", world.map)
    asked = {name: reading.every[name] for name in voters(reading.map)}
    claims = partial(LeaseVotes(asked, DRIVE, SECRET, ENVIRONMENT).claim, 5.0)
    reader = ReplicatedCommitLog(reading.objects, claims=claims, environment=ENVIRONMENT)
    world.history.note_found(await reader.open(), at_least, "a reader at the end")
    for zone in sorted({voter.zone for voter in world.voters.values()}):
        world.away = {node.name for node in world.map.nodes if node.zone == zone}
        votes = voters(world.map)
        if 2 * len(world.away.intersection(votes)) >= len(votes):
            continue  # no minority: nodes and votes came and went, and there may be four of these for a while
        mount = mount_of(world, f"writer without {zone}", world.map)
        try:
            head = await open_mount(mount, None)
        except DriveError as error:
            raise Violation(f"without {zone} it cannot be opened: {error}") from error
        await append(mount, head)
        await mount.lease.release()
    world.away = set()
    for block in world.history.blocks_of(world.history.acknowledged):
        if len(world.blocks[block]) < K:
            raise Violation(f"block {block} is gone, and the head needs it")


async def live(plan: Plan) -> Outcome:
    """The whole run."""
    async with trio.open_nursery() as background:
        world = World(plan, background)
        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose_nodes, world)
                if plan.map_changes:
                    nursery.start_soon(change_map, world)
                for number in range(plan.machines):
                    nursery.start_soon(machine, world, f"machine{number}")
        await final_check(world)
        background.cancel_scope.cancel()
    return Outcome(world.takeovers, world.history.count, world.chances.met)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Everything that draws draws from the seed, trio's order of tasks too."""
    from trio._core import _run

    vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    before = _run._r.getstate(), random.getstate()
    _run._r.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = False
        _run._r.setstate(before[0])
        random.setstate(before[1])


def simulate(seed: int, plan: Plan | None = None) -> Outcome:
    """Run one seed; `Violation` (perhaps in a group), with the seed as a note, if a promise was broken."""
    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            return trio.run(live, plan or plan_of(seed), clock=clock)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
