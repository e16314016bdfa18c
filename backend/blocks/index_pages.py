"""What is asked of all packs of an index together, or said of many blocks. It is done page by page: others
have their turns meanwhile, and may change what was looked at before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from backend.blocks.block_index import DyingBlocks, IndexStatistics, PackTable
from backend.system import checkpoint
from backend.upstream import BlockId, Shortfall

PAGE: Final = 2000
"""So many packs or blocks are looked at in a turn."""


async def ids_of(packs: PackTable) -> set[bytes]:
    """The ids of all packs."""
    found, last = set[bytes](), b""
    while page := packs.ids(last, PAGE):
        found.update(page)
        last = page[-1]
        await checkpoint()
    return found


async def statistics_of(packs: PackTable) -> IndexStatistics:
    """Sums over all packs."""
    total = IndexStatistics()
    for after, up_to in _ranges(packs.newest_number()):
        total += packs.statistics(after, up_to)
        await checkpoint()
    return total


async def shortfall_of(packs: PackTable, up_to: int, answering: Collection[str]) -> Shortfall:
    """Of the packs with numbers up to `up_to`, as `PackTable.shortfall`."""
    count, names = 0, set[str]()
    for first, last in _ranges(up_to):
        found = packs.shortfall(first, last, answering)
        count, names = count + found.packs, names.union(found.nodes)
        await checkpoint()
    return Shortfall(count, tuple(sorted(names)))


async def any_repairable(packs: PackTable, up_to: int, answering: Collection[str]) -> bool:
    """Whether there is any among those with numbers up to `up_to`, as `PackTable.any_repairable`."""
    for first, last in _ranges(up_to):
        await checkpoint()
        if packs.any_repairable(first, last, answering):
            return True
    return False


async def mark_dying(dying: DyingBlocks, blocks: Sequence[BlockId], now_ns: int) -> list[BlockId]:
    """Exactly these stored blocks are dying in the end, as `DyingBlocks.mark`; the new ones among them, in
    order. An error or a cancellation leaves some of it done; to repeat it does the rest."""
    new, wanted, at, after = list[BlockId](), sorted(blocks), 0, b""
    while (up_to := _end_of_page(dying.ids(after, PAGE), wanted[at : at + PAGE])) is not None:
        end = bisect_right(wanted, up_to, at)
        new += dying.mark(after, up_to, wanted[at:end], now_ns)
        at, after = end, up_to
        await checkpoint()
    return new + dying.mark(after, None, wanted[at:], now_ns)


def _end_of_page(known: Sequence[BlockId], wanted: Sequence[BlockId]) -> BlockId | None:
    """The last id up to which there are at most `PAGE` of both; None if that is all of both."""
    return min((page[-1] for page in (known, wanted) if len(page) == PAGE), default=None)


def _ranges(newest: int) -> Iterator[tuple[int, int]]:
    """The numbers up to `newest`: above the first of each pair, up to the second."""
    return ((after, min(after + PAGE, newest)) for after in range(0, newest, PAGE))
