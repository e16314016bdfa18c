"""backend.blocks.index_pages: the same answers in pages of any size, with a turn for others after each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.blocks import index_pages
from backend.blocks.block_index import BlockIndex, IndexStatistics
from backend.blocks.index_pages import any_repairable, ids_of, mark_dying, shortfall_of, statistics_of
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.packs import Pack, PackEntry
from backend.upstream import BlockId, Shortfall

NODES = tuple(f"node{number}" for number in range(6))
PARITY = 2
packs = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 0b110, 0b111]), st.booleans(), st.booleans()), max_size=12
)
"""Of each: what it lacks, whether it is suspected too, whether it is gone again."""


def index_of(count: int) -> SqliteBlockIndex:
    index = SqliteBlockIndex(":memory:", bytes(16), PARITY)
    for number in range(count):
        index.add_pack(Pack(number.to_bytes(16), 1000, 1500, NODES, number % 2), [])
    return index


def changed(index: BlockIndex, found: list[tuple[int, bool, bool]]) -> None:
    for number, (missing, suspected, _) in enumerate(found):
        index.packs.set_missing(number.to_bytes(16), missing)
        if suspected:
            index.packs.want_repair(number.to_bytes(16))
    for number, (_, _, gone) in enumerate(found):
        if gone:
            index.dying.doom([number.to_bytes(16)])
            index.dying.remove_pack(number.to_bytes(16))


@given(packs, st.integers(1, 13), st.sets(st.sampled_from(NODES)), st.integers(0, 13))
async def test_pages_of_any_size_give_the_same(
    found: list[tuple[int, bool, bool]], page: int, answering: set[str], up_to: int
) -> None:
    index = index_of(len(found))
    changed(index, found)
    whole = index.packs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_pages, "PAGE", page)
        assert await ids_of(whole) == set(whole.ids(b"", 99))
        assert await statistics_of(whole) == whole.statistics(0, 99)
        assert await shortfall_of(whole, up_to, answering) == whole.shortfall(0, up_to, answering)
        assert await any_repairable(whole, up_to, answering) == whole.any_repairable(0, up_to, answering)
    index.close()


async def test_an_index_without_packs_has_sums() -> None:
    index = index_of(0)
    assert await statistics_of(index.packs) == IndexStatistics()
    assert await shortfall_of(index.packs, 0, ()) == Shortfall()
    assert not await any_repairable(index.packs, 0, NODES)
    assert await ids_of(index.packs) == set()


BLOCKS = [BlockId(bytes([number]) * 32) for number in range(9)]
some_blocks = st.sets(st.sampled_from(BLOCKS))


@given(some_blocks, some_blocks, st.integers(1, 10))
async def test_blocks_are_marked_in_pages_of_any_size(
    before: set[BlockId], wanted: set[BlockId], page: int
) -> None:
    index = SqliteBlockIndex(":memory:", bytes(16), PARITY)
    index.add_pack(Pack(bytes(16), 1000, 1500, NODES), [PackEntry(each, 0, 9) for each in BLOCKS])
    index.dying.mark(b"", None, sorted(before), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_pages, "PAGE", page)
        assert await mark_dying(index.dying, list(wanted), 2) == sorted(wanted - before)
    assert {each for each in BLOCKS if not index.has(each)} == wanted
    assert index.dying.forget(1, 99) == len(wanted & before), "those that were, since then"
    index.close()


QUESTIONS: dict[str, Callable[[SqliteBlockIndex, int], Awaitable[object]]] = {
    "ids": lambda index, _: ids_of(index.packs),
    "statistics": lambda index, _: statistics_of(index.packs),
    "shortfall": lambda index, newest: shortfall_of(index.packs, newest, NODES),
    "any_repairable": lambda index, newest: any_repairable(index.packs, newest, NODES[1:]),
    "mark": lambda index, count: mark_dying(index.dying, [_block(number) for number in range(count)], 1),
    "unmark": lambda index, _: mark_dying(index.dying, [], 2),
    "unmark all but the last": lambda index, count: mark_dying(index.dying, [_block(count)], 2),
}


def _block(number: int) -> BlockId:
    return BlockId(number.to_bytes(32))


@pytest.mark.parametrize("question", QUESTIONS)
async def test_others_have_a_turn_however_many_packs_there_are(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_pages, "PAGE", 20)
    few, many = [await longest_turn(question, count) for count in (100, 1000)]
    assert many < 2 * few


async def longest_turn(question: str, count: int) -> int:
    """The most instructions that SQLite takes between two turns of another task."""
    index = index_of(count)
    if question.startswith("unmark"):
        index.dying.mark(b"", None, [_block(number) for number in range(count)], 1)
    since_turn = longest = 0

    def step() -> bool:
        nonlocal since_turn, longest
        since_turn += 1
        longest = max(longest, since_turn)
        return False

    async def others() -> None:
        nonlocal since_turn
        while True:
            await trio.lowlevel.checkpoint()
            since_turn = 0

    index.database.connection.set_progress_handler(step, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await QUESTIONS[question](index, count)
        nursery.cancel_scope.cancel()
    index.close()
    return longest
