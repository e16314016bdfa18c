"""The commit log: order, durability, torn appends, damage, gaps, forks and rollback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits import commit_format
from backend.commits.commit_log import EMPTY, ReplicatedCommitLog
from backend.commits.commit_search import commit_key
from backend.commits.object_format import Copy, frame
from backend.commits.replicated_objects import ReplicatedObjects, ranking_of
from backend.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    FormatError,
    ReadOnlyError,
    RollbackError,
    UnavailableError,
)
from backend.failpoints import OF_PROCESS
from backend.upstream import NO_COMMIT, Commit, Head
from tests.memory_node import MemoryNode, memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))


class Setup:
    """Six nodes with m = 2."""

    def __init__(self) -> None:
        self.nodes = memory_nodes(6)
        cluster = ClusterMap(1, tuple(ClusterNode(node.name, node.zone) for node in self.nodes.values()))
        self.ranking = ranking_of(cluster, 3)
        self.objects = ReplicatedObjects(self.nodes, self.ranking, 3, DRIVE, SECRET)
        self.fenced = False

    def log(self) -> ReplicatedCommitLog:
        return ReplicatedCommitLog(self.objects, self.fence)

    async def fence(self, _: Head | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if self.fenced:
            raise FencedError("taken over")

    async def writer(self, epoch: int = 1, known: Head | None = None) -> ReplicatedCommitLog:
        log = self.log()
        await log.open(known=known)
        await log.become_writer(epoch)
        return log

    async def reader(self, known: Head | None = None, trusted: Head | None = None) -> ReplicatedCommitLog:
        log = self.log()
        await log.open(known=known, trusted=trusted)
        return log

    def order(self, number: int) -> list[MemoryNode]:
        return [self.nodes[name] for name in self.ranking(commit_key(number).encode())]

    def holders(self, number: int) -> list[MemoryNode]:
        return [node for node in self.nodes.values() if commit_key(number) in node.objects]


def following(head: Head, payload: bytes = b"", epoch: int = 1) -> Commit:
    return Commit(head.number + 1, head.hash, 1, epoch, 1000 + head.number, (), (), payload)


async def fill(log: ReplicatedCommitLog, count: int, epoch: int = 1) -> list[Head]:
    def commit(number: int) -> Commit:
        return following(log.head, b"%d" % number, epoch)

    return [log.head, *[await log.append(commit(number), log.head) for number in range(count)]]


async def test_commits_come_back_in_order_with_their_hashes() -> None:
    setup = Setup()
    log = await setup.writer()
    heads = await fill(log, 40)
    for reading in (log, await setup.reader()):
        assert reading.head == heads[-1]
        found = await reading.commits_after(0)
        assert [Head(commit.number, commit_hash) for commit, commit_hash in found] == heads[1:]
        assert [commit.payload for commit, _ in found] == [b"%d" % number for number in range(40)]
        assert [commit.number for commit, _ in await reading.commits_after(37)] == [38, 39, 40]
        assert [commit.number for commit, _ in await reading.commits_after(3, limit=2)] == [4, 5]
        assert await reading.commits_after(40) == []


async def test_an_empty_log_is_empty() -> None:
    log = await Setup().writer()
    assert log.head == EMPTY
    assert await log.commits_after(0) == []


async def test_a_commit_is_on_three_nodes_and_survives_any_two() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 5)
    assert all(len(setup.holders(number)) == 3 for number in range(1, 6))
    names = list(setup.nodes)
    for first in names:
        for second in names:
            for name, node in setup.nodes.items():
                node.away = name in (first, second)
            log = await setup.reader()
            assert log.head == heads[-1]
            assert len(await log.commits_after(0)) == 5


async def test_appending_goes_on_with_two_nodes_away() -> None:
    setup = Setup()
    log = await setup.writer()
    setup.nodes["node0"].away = setup.nodes["node1"].away = True
    heads = await fill(log, 5)
    setup.nodes["node0"].away = setup.nodes["node1"].away = False
    setup.nodes["node2"].away = setup.nodes["node3"].away = True
    assert (await setup.reader()).head == heads[-1]


async def test_append_twice_is_once() -> None:
    setup = Setup()
    log = await setup.writer()
    commit = following(EMPTY)
    head = await log.append(commit, EMPTY)
    assert await log.append(commit, EMPTY) == head
    assert log.head.number == 1


async def test_only_what_follows_the_head_is_taken() -> None:
    setup = Setup()
    log = await setup.writer()
    heads = await fill(log, 2)
    wrong = [
        (following(heads[1], b"late"), heads[1]),
        (following(heads[2], b"x"), heads[1]),
        (Commit(3, NO_COMMIT, 1, 1, 0, (), (), b""), heads[2]),
        (Commit(4, heads[2].hash, 1, 1, 0, (), (), b""), heads[2]),
    ]
    for commit, expected in wrong:
        with pytest.raises(ConflictError):
            await log.append(commit, expected)
    assert (await setup.reader()).head == heads[-1]


@pytest.mark.parametrize("epoch", [1, 3])
async def test_a_commit_of_another_epoch_is_refused(epoch: int) -> None:
    log = await Setup().writer(epoch=2)
    with pytest.raises(FencedError, match=f"epoch {epoch}"):
        await log.append(following(EMPTY, epoch=epoch), EMPTY)


async def test_without_an_epoch_nothing_is_appended() -> None:
    log = await Setup().reader()
    with pytest.raises(ReadOnlyError):
        await log.append(following(EMPTY), EMPTY)
    with pytest.raises(ReadOnlyError):
        await log.mend()


async def test_of_two_writers_racing_for_a_number_one_wins() -> None:
    setup = Setup()
    one, two = await setup.writer(), await setup.writer()
    results: list[str] = []

    async def race(log: ReplicatedCommitLog, payload: bytes) -> None:
        try:
            await log.append(following(EMPTY, payload), EMPTY)
            results.append("won")
        except ConflictError:
            results.append("lost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(race, one, b"one")
        nursery.start_soon(race, two, b"two")
    assert sorted(results) == ["lost", "won"]
    winner = one if one.head.number else two
    assert (await setup.reader()).head == winner.head


@pytest.mark.parametrize("place", ["commit.after-first-copy", "commit.after-copies", "commit.after-fence"])
async def test_a_torn_append_succeeds_when_it_is_tried_again(place: str) -> None:
    setup = Setup()
    log = await setup.writer()
    commit = following(EMPTY)
    OF_PROCESS.arm(place, "eio")
    with pytest.raises(OSError, match=place):
        await log.append(commit, EMPTY)
    OF_PROCESS.disarm_all()
    head = await log.append(commit, EMPTY)
    assert head.number == 1
    assert len(setup.holders(1)) == 3


async def test_a_torn_append_is_completed_before_another_takes_its_number() -> None:
    setup = Setup()
    log = await setup.writer()
    first = following(EMPTY, b"first")
    OF_PROCESS.arm("commit.after-first-copy", "eio")
    with pytest.raises(OSError, match="failpoint"):
        await log.append(first, EMPTY)
    OF_PROCESS.disarm_all()
    setup.order(1)[0].away = True
    with pytest.raises(ConflictError):
        await log.append(following(EMPTY, b"second"), EMPTY)
    assert [commit for commit, _ in await log.commits_after(0)] == [first]
    await log.append(following(log.head, b"second"), log.head)
    setup.order(1)[0].away = False
    assert (await setup.reader()).head == log.head


async def test_a_torn_append_that_the_next_holder_sees_is_in_the_log_for_good() -> None:
    setup = Setup()
    OF_PROCESS.arm("commit.after-first-copy", "eio")
    old = await setup.writer()
    with pytest.raises(OSError, match="failpoint"):
        await old.append(following(EMPTY, b"torn"), EMPTY)
    OF_PROCESS.disarm_all()
    new = await setup.writer(epoch=2)
    assert new.head.number == 1
    assert len(setup.holders(1)) == 3
    setup.order(1)[0].away = True
    assert (await setup.reader()).head == new.head


async def test_a_torn_append_that_the_next_holder_missed_is_replaced_for_good() -> None:
    setup = Setup()
    old = await setup.writer()
    OF_PROCESS.arm("commit.after-first-copy", "eio")
    with pytest.raises(OSError, match="failpoint"):
        await old.append(following(EMPTY, b"torn"), EMPTY)
    OF_PROCESS.disarm_all()
    hidden = setup.order(1)[0]
    hidden.away = True
    new = await setup.writer(epoch=2)
    assert new.head == EMPTY
    heads = await fill(new, 1, epoch=2)
    hidden.away = False
    assert (await setup.reader()).head == heads[1]
    heads = await fill(new, 3, epoch=2)
    assert (await setup.reader()).head == heads[-1]
    third = await setup.writer(epoch=3)
    assert third.head == heads[-1]


async def test_a_settled_commit_beats_a_torn_one_of_a_later_epoch_that_nobody_saw() -> None:
    """The reason for ballots: epoch 3 adopts the commit of epoch 1 while that of epoch 2 is hidden."""
    setup = Setup()
    OF_PROCESS.arm("commit.after-first-copy", "eio")
    old = await setup.writer(epoch=1)
    with pytest.raises(OSError, match="failpoint"):
        await old.append(following(EMPTY, b"one"), EMPTY)
    setup.order(1)[0].away = True
    middle = await setup.writer(epoch=2)
    with pytest.raises(OSError, match="failpoint"):
        await middle.append(following(EMPTY, b"two", epoch=2), EMPTY)
    OF_PROCESS.disarm_all()
    setup.order(1)[0].away = False
    setup.order(1)[1].away = True
    settled = await setup.writer(epoch=3)
    assert settled.head.number == 1
    setup.order(1)[1].away = False
    assert (await setup.reader(known=settled.head)).head == settled.head
    assert [commit.payload for commit, _ in await (await setup.reader()).commits_after(0)] == [b"one"]


async def test_the_newest_commit_is_settled_even_if_a_fenced_holder_replaces_all_copies_meanwhile() -> None:
    """Found by test_commit_races (seed 1053492): epoch 3 has read commit 2 of epoch 1, which nobody was told
    of; then epoch 2, which had not seen it, replaces each copy. Epoch 3 overrules both."""
    setup = Setup()
    first = await setup.writer(1)
    await fill(first, 1)
    second = await setup.writer(2)
    torn = await first.append(following(first.head, b"torn"), first.head)
    third = await setup.reader()
    assert third.head == torn
    setup.fenced = True
    with pytest.raises(FencedError):
        await second.append(following(second.head, b"late", 2), second.head)
    setup.fenced = False
    assert await third.become_writer(3) == torn
    assert (await setup.reader()).head == torn


async def test_a_losing_copy_is_not_taken_for_the_head_while_the_winning_ones_are_away() -> None:
    """The listing sees all nodes; those with the acknowledged commit go before its copies are read."""
    setup = Setup()
    first = await setup.writer(1)
    await fill(first, 1)
    loser = setup.order(2)[0]
    for node in setup.nodes.values():
        node.away = node is not loser
    with pytest.raises(UnavailableError):
        await first.append(following(first.head, b"loser"), first.head)
    for node in setup.nodes.values():
        node.away = node is loser
    second = await setup.writer(2)
    acknowledged = await second.append(following(second.head, b"winner", 2), second.head)
    loser.away = False
    winners = [node for node in setup.holders(2) if node is not loser]

    async def go_after_the_listing(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        for node in winners:
            node.away = node.away or operation == "get"

    assert len(winners) == 3
    as_they_were = loser.before
    for node in setup.nodes.values():
        node.before = go_after_the_listing
    with pytest.raises(UnavailableError, match="commit 2 cannot be looked for"):
        await setup.reader()
    for node in setup.nodes.values():
        node.before = as_they_were
        node.away = False
    assert (await setup.reader()).head == acknowledged


async def test_a_fenced_writer_is_not_told_that_it_succeeded() -> None:
    setup = Setup()
    log = await setup.writer()
    setup.fenced = True
    with pytest.raises(FencedError):
        await log.append(following(EMPTY), EMPTY)
    assert log.head == EMPTY


async def test_a_late_commit_of_a_fenced_writer_is_overruled() -> None:
    setup = Setup()
    old = await setup.writer()
    new = await setup.writer(epoch=2)
    await old.append(following(EMPTY, b"late"), EMPTY)
    await new.append(following(EMPTY, b"new", epoch=2), EMPTY)
    assert (await setup.reader()).head == new.head
    setup.fenced = True
    with pytest.raises(FencedError):
        await old.append(following(old.head, b"later"), old.head)


async def test_an_epoch_that_the_log_has_cannot_be_used_again() -> None:
    setup = Setup()
    await fill(await setup.writer(epoch=5), 1, epoch=5)
    log = await setup.reader()
    assert log.highest_epoch == 5
    with pytest.raises(FencedError):
        await log.become_writer(5)


async def test_too_few_nodes_keep_a_commit_from_being_acknowledged_until_they_are_back() -> None:
    setup = Setup()
    log = await setup.writer()
    commit = following(EMPTY)
    for name in ("node0", "node1", "node2", "node3"):
        setup.nodes[name].away = True
    with pytest.raises(UnavailableError) as caught:
        await log.append(commit, EMPTY)
    assert set(caught.value.nodes) == {"node0", "node1", "node2", "node3"}
    for node in setup.nodes.values():
        node.away = False
    assert (await log.append(commit, EMPTY)).number == 1


async def test_with_three_nodes_away_the_head_cannot_be_known() -> None:
    setup = Setup()
    await fill(await setup.writer(), 2)
    for name in ("node0", "node1", "node2"):
        setup.nodes[name].away = True
    with pytest.raises(UnavailableError, match="node0, node1, node2"):
        await setup.reader()


async def test_a_gap_is_named_and_nothing_is_cut_off() -> None:
    setup = Setup()
    await fill(await setup.writer(), 5)
    for node in setup.holders(3):
        del node.objects[commit_key(3)]
    with pytest.raises(CorruptError, match="gap: commit 3"):
        await setup.reader()


@pytest.mark.logs_warnings
async def test_damaged_copies_are_passed_over_and_mended() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 4)
    for number in (2, 4):
        for node in setup.order(number)[:2]:
            node.damage(commit_key(number))
    log = await setup.writer(epoch=2)
    assert log.head == heads[-1]
    assert log.needs_mending.is_set()
    assert await log.mend() == 1, "the newest was written again when the log was opened"
    assert not log.needs_mending.is_set()
    for node in setup.order(2)[2:3] + setup.order(4)[2:3]:
        node.away = True
    assert (await setup.reader()).head == heads[-1]


@pytest.mark.logs_warnings
@pytest.mark.parametrize("number", [2, 4])
async def test_a_commit_whose_copies_are_all_damaged_is_named(number: int) -> None:
    setup = Setup()
    await fill(await setup.writer(), 4)
    for node in setup.holders(number):
        node.damage(commit_key(number))
    with pytest.raises(CorruptError, match=f"commit {number}:"):
        await setup.reader()


async def test_commits_in_too_few_copies_are_copied_again() -> None:
    setup = Setup()
    await fill(await setup.writer(), 3)
    for node in setup.order(2)[:2]:
        del node.objects[commit_key(2)]
    log = await setup.writer(epoch=2)
    assert await log.mend() == 1
    assert len(setup.holders(2)) == 3
    assert await log.mend() == 0


async def test_commits_from_before_the_known_head_are_copied_again() -> None:
    """As on each machine that had the drive mounted before: of a node that was put back to an older state."""
    setup = Setup()
    heads = await fill(await setup.writer(), 600)
    for number in (1, 3, 599):
        for node in setup.order(number)[:2]:
            del node.objects[commit_key(number)]
    log = await setup.writer(epoch=2, known=heads[-1])
    assert await log.mend() == 3
    assert [len(setup.holders(number)) for number in (1, 3, 599)] == [3, 3, 3]
    assert not log.needs_mending.is_set()


@pytest.mark.logs_warnings
async def test_a_lost_commit_keeps_no_newer_one_in_too_few_copies() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 9)
    for node in setup.holders(5):
        node.damage(commit_key(5))
    for number in (3, 8):
        del setup.order(number)[0].objects[commit_key(number)]
    log = await setup.writer(epoch=2, known=heads[-1])
    assert await log.mend() == 1
    assert [len(setup.holders(number)) for number in (3, 8)] == [2, 3]


@pytest.mark.logs_warnings
async def test_a_lost_commit_is_said_once_and_ends_no_mending(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 9)
    for node in setup.holders(5):
        node.damage(commit_key(5))
    for number in (2, 3):
        del setup.order(number)[0].objects[commit_key(number)]
    log = await setup.writer(epoch=2, known=heads[-1])
    while log.needs_mending.is_set():
        assert await log.mend() == 0
    setup.order(7)[0].damage(commit_key(7))
    assert len(await log.commits_after(6)) == 3
    assert await log.mend() == 1
    assert not (await setup.objects.find_all(commit_key(7))).damaged
    assert not log.needs_mending.is_set()
    lost = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [("commit 5:" in record.getMessage()) for record in lost] == [True]


async def test_a_node_that_lists_nothing_costs_reads_only() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 60)
    setup.nodes["node0"].keys = _lists_nothing  # type: ignore[method-assign, assignment]
    log = await setup.writer(epoch=2, known=heads[-1])
    writes = _writes(setup)
    assert log.needs_mending.is_set()
    assert await log.mend() == 0
    assert writes == []
    assert not log.needs_mending.is_set()


async def _lists_nothing(*_: object) -> list[str]:
    await trio.lowlevel.checkpoint()
    return []


def _writes(setup: Setup) -> list[tuple[str, str]]:
    """From now on: node and key."""
    writes: list[tuple[str, str]] = []

    def noting(name: str) -> Callable[[str, str], Awaitable[None]]:
        async def note(operation: str, key: str) -> None:
            await trio.lowlevel.checkpoint()
            if operation in ("create", "swap", "put", "delete"):
                writes.append((name, key))

        return note

    for name, node in setup.nodes.items():
        node.before = noting(name)
    return writes


async def test_only_nodes_that_lack_a_commit_are_written_to() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 30)
    lost = [key for key in setup.nodes["node0"].objects if key != commit_key(30)]
    for key in lost:
        del setup.nodes["node0"].objects[key]
    log = await setup.writer(epoch=2, known=heads[-1])
    writes = _writes(setup)
    assert await log.mend() == len(lost)
    assert sorted(writes) == sorted(("node0", key) for key in lost)


async def test_a_node_that_is_full_has_the_next_one_stand_in() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 3)
    first = setup.order(2)[0]
    del first.objects[commit_key(2)]
    log = await setup.writer(epoch=2, known=heads[-1])
    first.full = True
    assert await log.mend() == 1
    assert setup.order(2)[3] in setup.holders(2)
    assert len(setup.holders(2)) == 3


async def test_who_is_away_may_have_the_copy_that_is_lacking() -> None:
    """It is looked for again when the node is back; the others are mended meanwhile."""
    setup = Setup()
    heads = await fill(await setup.writer(), 9)
    for number in (2, 6):
        del setup.order(number)[0].objects[commit_key(number)]
    log = await setup.writer(epoch=2, known=heads[-1])
    setup.order(6)[5].away = True
    writes = _writes(setup)
    with pytest.raises(UnavailableError, match=commit_key(6)):
        await log.mend()
    assert commit_key(6) not in [key for _, key in writes]
    assert log.needs_mending.is_set()
    setup.order(6)[5].away = False
    while log.needs_mending.is_set():
        await log.mend()
    assert [len(setup.holders(number)) for number in (2, 6)] == [3, 3]


@pytest.mark.logs_warnings
async def test_each_commit_is_mended_within_a_passing_of_its_own() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 9)
    for number in (2, 4, 6):
        del setup.order(number)[0].objects[commit_key(number)]
    log = await setup.writer(epoch=2, known=heads[-1])
    seen: list[int] = []

    @asynccontextmanager
    async def passing() -> AsyncIterator[None]:
        seen.append(sum(len(setup.holders(number)) for number in (2, 4, 6)))
        yield

    assert await log.mend(passing) == 3
    assert seen == [6, 7, 8]


@pytest.mark.logs_warnings
async def test_what_is_found_damaged_while_another_is_mended_is_mended_next() -> None:
    setup = Setup()
    await fill(await setup.writer(), 5)
    setup.order(2)[0].damage(commit_key(2))
    log = await setup.writer(epoch=2)
    setup.order(4)[0].damage(commit_key(4))
    reading = [log]

    async def read_once(operation: str, key: str) -> None:
        if (operation, key) == ("swap", commit_key(2)) and reading:
            await reading.pop().commits_after(3)

    for node in setup.nodes.values():
        node.before = read_once
    assert await log.mend() == 1
    assert log.needs_mending.is_set()
    assert await log.mend() == 1
    assert not log.needs_mending.is_set()
    assert not (await setup.objects.find_all(commit_key(4))).damaged


async def test_a_known_head_saves_reading_what_is_before_it() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 30)
    read: list[str] = []

    async def note(operation: str, key: str) -> None:
        if operation == "get":
            read.append(key)

    for node in setup.nodes.values():
        node.before = note
    log = await setup.reader(known=heads[28])
    assert log.head == heads[30]
    assert set(read) == {commit_key(29), commit_key(30), commit_key(31)}
    assert [commit.number for commit, _ in await log.commits_after(26)] == [27, 28, 29, 30]
    assert [commit.number for commit, _ in await log.commits_after(0)] == list(range(1, 31))


async def test_a_trusted_commit_of_a_snapshot_must_be_in_the_log() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 5)
    assert (await setup.reader(trusted=heads[3])).head == heads[5]
    for wrong in (Head(3, b"x" * 32), Head(5, b"x" * 32)):
        with pytest.raises(RollbackError, match=f"another commit {wrong.number}"):
            await setup.reader(trusted=wrong)


async def test_a_log_that_is_older_than_what_was_seen_is_refused() -> None:
    setup = Setup()
    log = await setup.writer()
    await fill(log, 3)
    backup = {name: dict(node.objects) for name, node in setup.nodes.items()}
    heads = await fill(log, 2)
    for name, node in setup.nodes.items():
        node.objects = dict(backup[name])
    with pytest.raises(RollbackError, match="ends at commit 3, but this device has seen commit 5"):
        await setup.reader(known=heads[-1])
    other = await setup.writer(epoch=2)
    await fill(other, 4, epoch=2)
    with pytest.raises(RollbackError, match="another commit 5"):
        await setup.reader(known=heads[-1])
    with pytest.raises(RollbackError):
        await Setup().reader(known=heads[-1])


@pytest.mark.logs_warnings
async def test_commits_that_swapped_places_are_refused() -> None:
    setup = Setup()
    await fill(await setup.writer(), 3)
    for node in setup.holders(2):
        node.objects[commit_key(2)] = next(holder.objects[commit_key(1)] for holder in setup.holders(1))
    with pytest.raises(CorruptError, match="commit 2:"):
        await setup.reader()


async def test_a_forged_commit_with_good_checksums_breaks_the_chain() -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 3)
    forged = commit_format.encode(following(heads[1], b"forged"))
    await setup.objects.create(commit_key(2), forged, 9, lambda: None)
    with pytest.raises(CorruptError, match="commit 2: no copy is good and fits"):
        await setup.reader()


def forged(number: int, previous: bytes, ballot: int = 2**64 - 1) -> bytes:
    """What a node without the key can make: all is right but the tag."""
    commit = Commit(number, previous, 1, 1, 2000, (), (), b"forged")
    return frame(DRIVE, commit_key(number), Copy(ballot, commit_format.encode(commit)))


@pytest.mark.logs_warnings
@pytest.mark.parametrize("hostile", [1, 2])
@pytest.mark.parametrize("kind", ["forged", "junk", "empty", "another's"])
async def test_a_next_commit_that_nodes_made_up_is_no_commit(hostile: int, kind: str) -> None:
    setup = Setup()
    heads = await fill(await setup.writer(), 3)
    content = {
        "forged": forged(4, heads[-1].hash),
        "junk": b"junk" * 100,
        "empty": b"",
        "another's": setup.holders(2)[0].objects[commit_key(2)],
    }[kind]
    for node in setup.order(4)[:hostile]:
        node.objects[commit_key(4)] = content
    honest = setup.order(4)[hostile:]
    assert (await setup.reader(known=heads[2])).head == heads[-1]
    assert not any(commit_key(4) in node.objects for node in honest), "it was copied"
    log = await setup.writer(2)
    assert log.head == heads[-1]
    head = await log.append(following(log.head, b"mine", 2), log.head)
    assert (await setup.reader(known=head)).head == head
    assert len(setup.holders(4)) == 3


@pytest.mark.logs_warnings
@pytest.mark.parametrize("hidden", ["nothing", "listed", "all"])
async def test_what_was_acknowledged_is_found_whatever_two_nodes_list(hidden: str) -> None:
    """Two nodes list what they like, and hide what they have."""
    setup = Setup()
    heads = await fill(await setup.writer(), 9)
    for node in setup.order(9)[:2]:
        for number in (10, 11, 500, 2**64 - 1, *range(1000, 1300)):
            node.objects[commit_key(number)] = forged(number, heads[-1].hash)
        for number in range(1, 10):
            if hidden == "all" or (hidden == "listed" and number > 6):
                node.objects.pop(commit_key(number), None)
    reads: list[str] = []

    async def count(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        reads.append(key)

    for node in setup.nodes.values():
        node.before = count
    assert (await setup.reader()).head == heads[-1]
    assert len(reads) < 6 * 40, "each made up number costs reads"


@pytest.mark.logs_warnings
async def test_a_reader_does_not_follow_what_a_node_made_up() -> None:
    setup = Setup()
    writer = await setup.writer()
    heads = await fill(writer, 2)
    reader = await setup.reader()
    setup.order(3)[5].objects[commit_key(3)] = forged(3, heads[-1].hash)
    assert await reader.refresh() == heads[-1]
    head = await writer.append(following(writer.head, b"true"), writer.head)
    assert await reader.refresh() == head


async def test_copies_of_a_version_before_are_refused_in_words_that_say_so() -> None:
    setup = Setup()
    await fill(await setup.writer(), 1)
    for node in setup.holders(1):
        data = bytearray(node.objects[commit_key(1)])
        data[-64 + 8] = 1
        node.objects[commit_key(1)] = bytes(data)
    with pytest.raises(FormatError, match="version 1 of another drivefs"):
        await setup.reader()


async def test_an_append_wakes_who_waits() -> None:
    log = await Setup().writer()
    woken = trio.Event()

    async def wait() -> None:
        await log.wait_for_change(0)
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not woken.is_set()
        await fill(log, 1)
    assert woken.is_set()
    await log.wait_for_change(0)


async def test_a_reader_follows_the_writer(autojump_clock: trio.testing.MockClock) -> None:
    setup = Setup()
    log = await setup.writer()
    reader = await setup.reader()

    async def write_later() -> None:
        await trio.sleep(10)
        await fill(log, 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_later)
        await reader.wait_for_change(0)
    await reader.wait_for_change(2)
    assert reader.head == log.head
    assert len(await reader.commits_after(0)) == 3


async def test_a_reader_that_followed_an_overruled_commit_is_told() -> None:
    setup = Setup()
    old, new = await setup.writer(), await setup.writer(epoch=2)
    reader = await setup.reader()
    await old.append(following(EMPTY, b"late"), EMPTY)
    await reader.refresh()
    await fill(new, 2, epoch=2)
    with pytest.raises(ConflictError, match="another way at commit 1"):
        await reader.refresh()


async def test_commits_that_were_made_at_a_hub_stand_between_those_of_two_leases() -> None:
    """A drive was on other nodes under the epoch 5, then at a hub, and its log comes to new nodes."""
    setup = Setup()
    taking = await setup.writer(epoch=1)
    for epoch in (5, 5, 0, 0):
        await taking.take(following(taking.head, b"x", epoch), taking.head)
    with pytest.raises(FencedError):
        await taking.append(following(taking.head, b"x", 0), taking.head)
    again = await setup.writer(epoch=2)
    await fill(again, 2, epoch=2)
    reader = await setup.reader()
    assert reader.head == again.head
    assert [commit.epoch for commit, _ in await reader.commits_after(0)] == [5, 5, 0, 0, 2, 2]


async def test_a_commit_that_is_taken_again_is_taken_once() -> None:
    setup = Setup()
    log = await setup.writer(epoch=7)
    before, commit = log.head, following(log.head, b"x", 0)
    assert await log.take(commit, before) == await log.take(commit, before)
    with pytest.raises(ConflictError):
        await log.take(following(before, b"another", 0), before)
    with pytest.raises(ReadOnlyError):
        await (await setup.reader()).take(following(log.head, b"y", 0), log.head)


async def test_an_epoch_that_falls_without_a_hub_between_is_damage() -> None:
    setup = Setup()
    log = await setup.writer(epoch=1)
    await log.take(following(log.head, b"x", 5), log.head)
    await lay(setup, following(log.head, b"x", 1))
    with pytest.raises(CorruptError, match="later epoch"):
        await setup.reader()


async def lay(setup: Setup, commit: Commit) -> None:
    """A commit on the nodes, whatever it is."""
    data = commit_format.encode(commit)
    await setup.objects.create(commit_key(commit.number), data, 1, lambda: None)


async def test_a_commit_whose_epoch_falls_is_not_taken() -> None:
    """Regression: it was, and then no opening let the drive in again."""
    setup = Setup()
    log = await setup.writer(epoch=1)
    head = await log.take(following(log.head, b"x", 5), log.head)
    for add in (log.take, log.append):
        with pytest.raises(CorruptError, match="commit 1 has a later epoch"):
            await add(following(head, b"x", 1), head)
    assert log.head == head
    assert setup.holders(2) == []
    await log.take(following(head, b"x", 5), head)
    assert (await setup.reader()).head == log.head


async def test_a_writer_knows_the_epoch_that_the_log_ended_with() -> None:
    setup = Setup()
    log = await setup.writer(epoch=1)
    head = await log.take(following(log.head, b"x", 5), log.head)
    again = await setup.writer(epoch=6, known=head)
    with pytest.raises(CorruptError, match="commit 1 has a later epoch"):
        await again.take(following(head, b"x", 4), head)


async def test_a_reader_does_not_follow_to_an_epoch_that_falls() -> None:
    setup = Setup()
    log = await setup.writer(epoch=1)
    head = await log.take(following(log.head, b"x", 5), log.head)
    reader = await setup.reader()
    await lay(setup, following(head, b"x", 1))
    with pytest.raises(CorruptError, match="commit 1 has a later epoch"):
        await reader.refresh()
    assert reader.head == head
