"""What every kind of block index promises (backend.blocks.block_index.BlockIndex).

The kinds live through the same generated histories, and give the same answers at each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backend.blocks.block_index import BlockIndex, BlockLocation
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.packs.pack import Pack
from backend.packs.pack_format import PackEntry
from backend.upstream import BlockId, Shortfall
from tests.memory_index import MemoryBlockIndex

PARITY = 2
BLOCKS = [BlockId(bytes([number]) * 32) for number in range(8)]
PACKS = [bytes([number]) * 16 for number in range(8)]
NODES = tuple(f"node{number}" for number in range(6))


def sqlite() -> BlockIndex:
    return SqliteBlockIndex(":memory:", bytes(16), PARITY)


def memory() -> BlockIndex:
    return MemoryBlockIndex(PARITY)


@pytest.fixture(params=[sqlite, memory])
def index(request: pytest.FixtureRequest) -> Iterator[BlockIndex]:
    index = request.param()
    yield index
    index.close()


def pack(number: int, missing: int = 0) -> Pack:
    return Pack(PACKS[number], 1000, 1700, NODES, missing)


def entries(*numbers: int) -> list[PackEntry]:
    return [PackEntry(BLOCKS[number], 40 + 10 * at, 10) for at, number in enumerate(numbers)]


def test_what_is_added_is_found(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    assert index.locate(BLOCKS[2]) == BlockLocation(pack(1), 50, 10)
    assert index.locate(BLOCKS[3]) is None
    assert [index.has(block) for block in BLOCKS[:4]] == [False, True, True, False]
    assert index.packs.get(PACKS[1]) == pack(1)
    assert index.packs.get(PACKS[2]) is None


def test_a_block_is_not_there_beyond_parity_nor_while_something_of_its_pack_is_suspected(
    index: BlockIndex,
) -> None:
    index.add_pack(pack(1, missing=0b11), entries(1))
    assert index.has(BLOCKS[1])
    index.packs.set_missing(PACKS[1], 0b111)
    assert not index.has(BLOCKS[1])
    index.packs.set_missing(PACKS[1], 0)
    index.packs.want_repair(PACKS[1])
    assert not index.has(BLOCKS[1])


def test_tags_are_noted_for_each_fragment_and_go_with_the_pack(index: BlockIndex) -> None:
    one, two = pack(1), pack(2)
    for each in (one, two):
        index.add_pack(each, [])
        assert index.packs.tag(each.id, 0) == ""
    index.packs.note_tag(one.id, 0, "first")
    index.packs.note_tag(one.id, 5, "other")
    index.packs.note_tag(one.id, 0, "second")
    index.packs.note_tag(bytes(16), 0, "of none")
    assert [index.packs.tag(each.id, at) for each in (one, two) for at in (0, 5)] == [
        "second",
        "other",
        "",
        "",
    ]
    index.dying.doom([one.id])
    index.dying.remove_pack(one.id)
    assert index.packs.tag(one.id, 0) == ""
    index.add_pack(one, [])
    assert index.packs.tag(one.id, 0) == ""


def test_what_is_forgotten_comes_back_as_long_as_its_pack_is_there(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    assert index.dying.mark(b"", None, BLOCKS[1:3], 5) == BLOCKS[1:3]
    assert index.dying.forget(5, 10) == 2
    assert index.locate(BLOCKS[1]) is None
    assert index.dying.doom([PACKS[1]]) == [pack(1)]
    index.dying.revive([BLOCKS[1]])
    assert index.locate(BLOCKS[1]) == BlockLocation(pack(1), 40, 10)
    assert index.dying.doomed() == []
    assert index.dying.doom([PACKS[1]]) == [], "it is to be looked at first"
    index.packs.set_missing(PACKS[1], 0)
    index.dying.doom([PACKS[1]])
    index.dying.remove_pack(PACKS[1])
    assert index.other_places(BLOCKS[2]) == []


def test_packs_are_known_in_the_order_in_which_they_came(index: BlockIndex) -> None:
    for number in (3, 1, 2):
        index.add_pack(pack(number, missing=1), entries(number))
    assert index.packs.to_repair(9) == [pack(3, 1), pack(1, 1), pack(2, 1)]
    assert index.packs.to_repair(1, 1) == [pack(1, 1)]
    assert index.packs.after(b"", 2) == [pack(1, 1), pack(2, 1)]
    assert index.packs.ids(b"", 2) == [PACKS[1], PACKS[2]]
    assert index.packs.ids(PACKS[2], 2) == [PACKS[3]]
    assert index.packs.shortfall(0, 2, NODES) == Shortfall(2, ("node0",))
    assert index.packs.shortfall(2, 3, NODES[:5]) == Shortfall(1, ("node0", "node5"))
    assert index.packs.statistics(1, 3).packs == 2


def test_what_repair_may_do_now_depends_on_who_answers(index: BlockIndex) -> None:
    index.add_pack(pack(1, missing=0b111), entries(1))  # beyond parity
    index.add_pack(pack(2, missing=0b10), entries(2))
    index.add_pack(pack(3), entries(3))
    assert not index.packs.any_repairable(0, 3, ("node0", "node2"))
    assert index.packs.any_repairable(0, 3, ("node1",))
    assert not index.packs.any_repairable(2, 3, ("node1",))
    index.packs.want_repair(PACKS[3])
    assert index.packs.any_repairable(2, 3, ())


some_blocks = st.lists(st.sampled_from(range(len(BLOCKS))), unique=True, max_size=5)
a_pack = st.sampled_from(range(len(PACKS)))
some_missing = st.sampled_from([0, 0, 1, 0b11, 0b111, 0b1111])


class Histories(RuleBasedStateMachine):
    """The same is done to an index of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = (sqlite(), memory())
        self.time = 0

    def both(self, path: str, *arguments: object) -> Any:
        """The answer that both give."""
        answers = []
        for found in self.kinds:
            method: Any = found
            for name in path.split("."):
                method = getattr(method, name)
            answers.append(method(*arguments))
        assert answers[0] == answers[1], path
        return answers[0]

    @rule(number=a_pack, missing=some_missing, blocks=some_blocks)
    def add_pack(self, number: int, missing: int, blocks: list[int]) -> None:
        self.both("add_pack", pack(number, missing), entries(*blocks))

    @rule(number=a_pack, missing=some_missing, blocks=some_blocks)
    def add_restored(self, number: int, missing: int, blocks: list[int]) -> None:
        self.both("add_restored", pack(number, missing), entries(*blocks))

    @rule(number=a_pack, old=st.lists(a_pack, unique=True, max_size=3))
    def move(self, number: int, old: list[int]) -> None:
        """What is needed of old packs goes to a new one, as compaction does it."""
        if self.both("packs.get", PACKS[number]) is not None:
            return
        needed = [entry.block for each in old for entry in self.both("blocks_of", PACKS[each])]
        moved = [PackEntry(block, 40 + 10 * at, 10) for at, block in enumerate(needed)]
        self.both("move", pack(number), moved, [PACKS[each] for each in old])

    @rule(number=a_pack, missing=some_missing, change=st.sampled_from(["want_repair", "set_missing"]))
    def note(self, number: int, missing: int, change: str) -> None:
        self.both(f"packs.{change}", PACKS[number], missing)

    @rule(number=a_pack, missing=some_missing)
    def settle(self, number: int, missing: int) -> None:
        self.both("packs.set_nodes", PACKS[number], NODES[::-1])
        self.both("packs.set_written", PACKS[number], NODES, missing)

    @rule(blocks=some_blocks, after=st.integers(-1, 3), up_to=st.integers(4, 8))
    def mark(self, blocks: list[int], after: int, up_to: int) -> None:
        self.time += 1
        inside = [BLOCKS[number] for number in blocks if after < number <= up_to]
        begin, end = BLOCKS[after] if after >= 0 else b"", BLOCKS[up_to] if up_to < len(BLOCKS) else None
        self.both("dying.mark", begin, end, inside, self.time)
        self.both("dying.ids", begin, 2)
        self.both("dying.ids", b"", 99)

    @rule(back=st.integers(0, 3), limit=st.integers(1, 3))
    def forget(self, back: int, limit: int) -> None:
        self.both("dying.forget", self.time - back, limit)

    @rule(blocks=some_blocks)
    def revive(self, blocks: list[int]) -> None:
        self.both("dying.revive", [BLOCKS[number] for number in blocks])

    @rule(numbers=st.lists(a_pack, unique=True, max_size=4))
    def doom(self, numbers: list[int]) -> None:
        """Only what nothing is read from is doomed."""
        self.both("dying.doom", [PACKS[each] for each in numbers if not self.both("blocks_of", PACKS[each])])

    @rule(number=a_pack)
    def remove(self, number: int) -> None:
        if not self.both("blocks_of", PACKS[number]):
            self.both("dying.remove_pack", PACKS[number])

    @rule(number=st.sampled_from(range(len(BLOCKS))), at=st.integers(0, 3))
    def read_elsewhere(self, number: int, at: int) -> None:
        for place in self.both("other_places", BLOCKS[number])[at : at + 1]:
            self.both("read_from", BLOCKS[number], place)

    @rule(number=st.sampled_from(range(len(BLOCKS))))
    def drop_place(self, number: int) -> None:
        self.both("drop_place", BLOCKS[number])

    @rule(number=a_pack)
    def read_from_what_is_gone(self, number: int) -> None:
        """A place that was asked for before its pack went: nothing is read from there."""
        if self.both("packs.get", PACKS[number]) is None:
            gone = replace(pack(number), size=5)
            self.both("read_from", BLOCKS[0], BlockLocation(gone, 40, 10))

    @invariant()
    def answers_agree(self) -> None:
        for block in BLOCKS:
            for question in ("has", "locate", "other_places", "length"):
                self.both(question, block)
        for each in PACKS:
            for question in ("packs.get", "blocks_of", "dying.is_doomed"):
                self.both(question, each)
        newest = self.both("packs.newest_number")
        self.both("locations", b"", 100)
        self.both("ids_after", BLOCKS[2], 3)
        self.both("packs.after", PACKS[1], 3)
        self.both("packs.to_repair", 3, 1)
        self.both("packs.ids", PACKS[1], 3)
        for after, up_to in ((0, newest), (1, newest - 1)):
            self.both("packs.any_repairable", after, up_to, NODES[1:])
            self.both("packs.shortfall", after, up_to, NODES[2:])
            self.both("packs.statistics", after, up_to)
        assert len({tuple(sorted(each.dying.doomed(), key=lambda one: one.id)) for each in self.kinds}) == 1

    def teardown(self) -> None:
        for each in self.kinds:
            each.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
