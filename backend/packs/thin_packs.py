"""Which packs are worth rewriting, and which of them become one: the rule of a drive and of a hub. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from backend.packs.pack import Pack
from backend.packs.pack_format import MAX_BLOCKS, encoded_size

THIN: Final = 0.6
"""A pack is rewritten when what is needed of it takes less than this part of it."""


@dataclass(slots=True)
class PackNeeds:
    """A pack, the bytes of it that blocks are read from, and how many blocks."""

    pack: Pack
    needed: int = 0
    blocks: int = 0

    def is_thin(self) -> bool:
        """Whether a pack of only what is needed would be small beside this one. One of which all is needed is
        not, however small its blocks are beside what the format adds."""
        return self.blocks > 0 and encoded_size(self.needed, self.blocks) < THIN * self.pack.size


def together(packs: Iterable[PackNeeds], target: int) -> Iterator[list[PackNeeds]]:
    """Packs, in their order, whose needed parts fill a new pack of `target` bytes of blocks."""
    group: list[PackNeeds] = []
    size = count = 0
    for one in packs:
        if group and (size + one.needed > target or count + one.blocks > MAX_BLOCKS):
            yield group
            group, size, count = [], 0, 0
        group.append(one)
        size, count = size + one.needed, count + one.blocks
    if group:
        yield group
