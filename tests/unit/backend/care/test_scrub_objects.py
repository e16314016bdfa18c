"""backend.care.scrub_objects: copies of commits and roots that are wrong are found by reading, and mended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from backend.care.scrub_objects import LEAST_BYTES, ObjectScrub, Seen
from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.commit_search import commit_key
from backend.commits.object_format import signed
from backend.commits.replicated_objects import Listing, ranking_of
from backend.commits.root_mending import mend_root
from backend.errors import DriveError
from backend.nodes.rate_limited import TokenBucket
from tests.unit.backend.commits.test_commit_log import DRIVE, SECRET, Setup, fill

pytestmark = pytest.mark.logs_warnings
ROOT = "roots/snapshot"
COMMITS = 5


@dataclass
class Rig:
    """A log of a few commits and a root, of which nothing is wrong; `gets` are the reads since then."""

    setup: Setup
    log: ReplicatedCommitLog
    gets: list[tuple[str, str]] = field(default_factory=list)
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(1e12, 1e12))

    def __post_init__(self) -> None:
        self.scrub = ObjectScrub(self.setup.objects, self.log, [ROOT], self.mend_root)

    async def mend_root(self, key: str) -> int:
        return await mend_root(self.setup.objects, key)

    async def look(self, far: Collection[str] = ()) -> Seen:
        """At all commits."""
        total = Seen()
        listing = await self.scrub.list_far(0, far)
        for number in self.scrub.batch(0):
            seen = await self.scrub.look_at_commit(number, self.bucket, listing, far)
            total.copies += seen.copies
            total.wrong += seen.wrong
            total.unanswered += seen.unanswered
        return total

    def note_gets(self) -> None:
        for name, node in self.setup.nodes.items():
            node.before = self._noting(name)

    def _noting(self, name: str) -> Callable[[str, str], Awaitable[None]]:
        async def before(operation: str, key: str) -> None:
            await trio.lowlevel.checkpoint()
            if operation == "get":
                self.gets.append((name, key))

        return before

    def good(self, number: int) -> int:
        """Nodes that have something in the place of this commit."""
        return len(self.setup.holders(number))


@pytest.fixture
async def rig() -> Rig:
    setup = Setup()
    log = await setup.writer()
    await fill(log, COMMITS)
    await setup.objects.put(ROOT, b"root" * 100, 1)
    return Rig(setup, log)


async def test_all_copies_are_read_where_nothing_is_wrong(rig: Rig) -> None:
    assert await rig.look() == Seen(copies=3 * COMMITS)
    assert not rig.log.needs_mending.is_set()
    assert await rig.scrub.look_at_roots(rig.bucket) == Seen(copies=3, bytes=1200)


@pytest.mark.parametrize("number", [1, 3, COMMITS])
async def test_a_damaged_copy_is_found_and_mended(rig: Rig, number: int) -> None:
    for node in rig.setup.order(number)[:2]:
        node.damage(commit_key(number))
    assert (await rig.look()).wrong == 2
    assert await rig.log.mend() == 1
    assert (await rig.look()).wrong == 0


async def test_a_missing_copy_is_found_and_mended(rig: Rig) -> None:
    del rig.setup.order(2)[0].objects[commit_key(2)]
    assert (await rig.look()).wrong == 1
    await rig.log.mend()
    assert rig.good(2) == 3


async def test_a_copy_of_another_commit_of_the_drive_is_wrong(rig: Rig) -> None:
    """As of a writer that was fenced: its tag fits, and the chain says another."""
    node = rig.setup.order(2)[0]
    del node.objects[commit_key(2)]
    await rig.setup.objects.create_on(node.name, commit_key(2), b"of another", 0)
    assert (await rig.look()).wrong == 1
    assert await rig.log.mend() == 1
    assert (await rig.look()).wrong == 0


async def test_a_node_that_is_away_is_not_called_wrong(rig: Rig) -> None:
    rig.setup.nodes["node0"].away = True
    seen = await rig.look()
    assert (seen.wrong, seen.unanswered) == (0, COMMITS)
    assert not rig.log.needs_mending.is_set()


async def test_a_lost_commit_is_told_and_nothing_is_made_up(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for node in rig.setup.holders(2):
        node.damage(commit_key(2))
    assert (await rig.look()).wrong == 3
    log = rig.setup.log()
    await log.open(known=rig.log.head)
    await log.become_writer(2)
    log.to_mend.note(2)
    before = [dict(node.objects) for node in rig.setup.nodes.values()]
    assert await log.mend() == 0
    assert [dict(node.objects) for node in rig.setup.nodes.values()] == before
    assert "lost" in caplog.text


async def test_far_nodes_are_listed_and_not_read(rig: Rig) -> None:
    far = [node.name for node in rig.setup.order(2)[:2]]
    rig.note_gets()
    assert (await rig.look(far)).wrong == 0
    assert not {name for name, _ in rig.gets} & set(far)
    assert {name for name, _ in rig.gets}


async def test_what_a_far_node_does_not_list_is_read_before_it_counts(rig: Rig) -> None:
    """A list may be late: where the copy is all the same, nothing is wrong."""
    far = [node.name for node in rig.setup.order(2)[:2]]
    late = await rig.scrub.list_far(0, far)
    late.holders[commit_key(2)].clear()
    seen = await rig.scrub.look_at_commit(2, rig.bucket, late, far)
    assert (seen.copies, seen.wrong) == (3, 0)
    assert not rig.log.needs_mending.is_set()
    del rig.setup.order(2)[0].objects[commit_key(2)]
    seen = await rig.scrub.look_at_commit(2, rig.bucket, late, far)
    assert (seen.copies, seen.wrong) == (2, 1)
    assert rig.log.needs_mending.is_set()


async def test_a_far_node_that_cannot_be_listed_is_not_called_wrong(rig: Rig) -> None:
    rig.setup.order(2)[0].away = True
    seen = await rig.look([rig.setup.order(2)[0].name])
    assert (seen.wrong, seen.unanswered) == (0, 0)


async def test_what_a_far_node_makes_up_hides_no_damage(rig: Rig) -> None:
    """All copies of near nodes are damaged; that a far node lists the commit counts for nothing."""
    holders = rig.setup.holders(2)
    holders[0].damage(commit_key(2))
    assert (await rig.look([holders[1].name, holders[2].name])).wrong == 1
    assert rig.log.needs_mending.is_set()


def go_over(rig: Rig, gone: str) -> None:
    """The voters are others, without this one, as soon as one of them is asked anything."""
    setup = rig.setup
    stay = {name: node for name, node in setup.nodes.items() if name != gone}
    ranking = ranking_of(ClusterMap(2, tuple(ClusterNode(name, node.zone) for name, node in stay.items())), 3)

    async def have(_operation: str, _key: str) -> None:
        await trio.lowlevel.checkpoint()
        setup.objects.have(stay, ranking, 3)

    for node in setup.nodes.values():
        node.before = have


async def test_a_scrub_goes_on_when_the_voters_become_others(rig: Rig) -> None:
    """Who is none any more is still asked by who began before."""
    setup = rig.setup
    go_over(rig, setup.order(2)[1].name)
    seen = await rig.scrub.look_at_commit(2, rig.bucket, Listing(), ())
    assert (seen.copies, seen.wrong) == (3, 0)
    assert not rig.log.needs_mending.is_set()


async def test_a_list_goes_on_when_the_voters_become_others(rig: Rig) -> None:
    gone = rig.setup.order(0)[-1].name
    go_over(rig, gone)
    listing = await rig.scrub.list_far(0, rig.setup.nodes)
    assert gone in set().union(*listing.holders.values())
    assert not listing.away


async def test_a_reader_goes_on_when_the_voters_become_others(rig: Rig) -> None:
    """And finds the copy on a node that is none any more."""
    first, second, _ = rig.setup.holders(2)
    for node in (first, second):
        node.damage(commit_key(2))
    go_over(rig, rig.setup.holders(2)[2].name)
    ((commit, _),) = await rig.log.commits_after(1, limit=1)
    assert commit.number == 2


async def test_many_commits_are_listed_in_batches(rig: Rig) -> None:
    assert rig.scrub.batch(0) == range(1, COMMITS + 1)
    assert rig.scrub.batch(3) == range(4, COMMITS + 1)
    assert not rig.scrub.batch(COMMITS)
    assert not (await rig.scrub.list_far(COMMITS, rig.setup.nodes)).holders


async def test_small_reads_wait_for_the_rate(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    rig.bucket = TokenBucket(LEAST_BYTES, LEAST_BYTES)
    began = trio.current_time()
    await rig.look()
    assert trio.current_time() - began == pytest.approx(3 * COMMITS - 1)


def roots(rig: Rig) -> list[str]:
    return [name for name, node in rig.setup.nodes.items() if ROOT in node.objects]


@pytest.mark.parametrize("damage", ["flip", "remove"])
async def test_a_root_is_mended(rig: Rig, damage: str) -> None:
    whole = {name: rig.setup.nodes[name].objects[ROOT] for name in roots(rig)}
    for name in list(whole)[:2]:
        if damage == "flip":
            rig.setup.nodes[name].damage(ROOT)
        else:
            del rig.setup.nodes[name].objects[ROOT]
    assert (await rig.scrub.look_at_roots(rig.bucket)).wrong == 2
    assert {name: rig.setup.nodes[name].objects[ROOT] for name in roots(rig)} == whole
    assert (await rig.scrub.look_at_roots(rig.bucket)).wrong == 0


async def test_an_older_root_elsewhere_is_nothing_wrong(rig: Rig) -> None:
    """A node that was away when it was put; of two of one ballot nothing says which is newer."""
    first, second, _ = roots(rig)
    older = rig.setup.nodes[first].objects[ROOT]
    await rig.setup.objects.put(ROOT, b"newer", 2)
    spare = next(node for node in rig.setup.nodes.values() if ROOT not in node.objects)
    spare.objects[ROOT] = older
    assert (await rig.scrub.look_at_roots(rig.bucket)).wrong == 0
    assert spare.objects[ROOT] == older
    await rig.setup.objects.restore(first, ROOT, signed(SECRET, DRIVE, ROOT, 2, b"other"))
    rig.setup.nodes[second].damage(ROOT)
    before = [dict(node.objects) for node in rig.setup.nodes.values()]
    assert await rig.mend_root(ROOT) == 0
    assert [dict(node.objects) for node in rig.setup.nodes.values()] == before


async def test_a_root_that_is_on_no_node_is_nothing_wrong(rig: Rig) -> None:
    for name in roots(rig):
        del rig.setup.nodes[name].objects[ROOT]
    assert await rig.scrub.look_at_roots(rig.bucket) == Seen()


async def test_a_root_that_cannot_be_mended_stays_wrong(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.setup.nodes[roots(rig)[0]].damage(ROOT)
    rig.setup.nodes[roots(rig)[0]].read_only = True
    assert (await rig.scrub.look_at_roots(rig.bucket)).wrong == 1
    assert "could not be mended" in caplog.text


async def test_a_root_mended_while_its_node_is_away_is_not_written_elsewhere(rig: Rig) -> None:
    node = rig.setup.nodes[roots(rig)[0]]
    node.away = True
    assert await rig.mend_root(ROOT) == 0
    with pytest.raises(DriveError):
        await rig.setup.objects.read(node, ROOT)
