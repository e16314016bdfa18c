"""Which fragments lie on which nodes, by the nodes' own listings: no index and no key is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backend.errors import DriveError
from backend.nodes import Node, PatientNode, pages
from backend.packs.fragment_format import parse_fragment_key
from backend.system import task_group


class FragmentListing:
    """Per pack one integer, 32 bits for each node. `away`: nodes that could not be listed, sorted."""

    def __init__(self, names: Sequence[str]) -> None:
        self._shift = {name: 32 * number for number, name in enumerate(names)}
        self._found: dict[bytes, int] = {}
        self._kept = -1
        """the bits that count"""
        self.away: list[str] = []

    def add(self, name: str, pack_id: bytes, index: int) -> None:
        """The node lists fragment `index` of the pack. No pack has a fragment of 32 or above."""
        if index < 32:
            self._found[pack_id] = self._found.get(pack_id, 0) | 1 << (self._shift[name] + index)

    def forget(self, name: str) -> None:
        """The node could not be listed to its end: it counts as away, and nothing that it said is kept."""
        self.away.append(name)
        self._kept &= ~(0xFFFFFFFF << self._shift[name])

    def packs(self) -> list[bytes]:
        """The ids of all packs of which there is a fragment."""
        kept = self._kept
        return [pack_id for pack_id, found in self._found.items() if found & kept]

    def has(self, name: str, pack_id: bytes, index: int) -> bool:
        """Whether the node of that name lists the fragment."""
        shift = self._shift.get(name)
        return shift is not None and bool(self._of(pack_id) >> (shift + index) & 1)

    def holders(self, pack_id: bytes, index: int) -> list[str]:
        """All nodes that list the fragment."""
        return [name for name in self._shift if self.has(name, pack_id, index)]

    def nodes_with(self, pack_id: bytes) -> list[str]:
        """All nodes that list any fragment of the pack."""
        found = self._of(pack_id)
        return [name for name, shift in self._shift.items() if found >> shift & 0xFFFFFFFF]

    def count(self, pack_id: bytes) -> int:
        """The number of `places`: one look-up, however many nodes there are."""
        return self._of(pack_id).bit_count()

    def count_different(self, pack_id: bytes) -> int:
        """The number of different fragments among the `places`."""
        found, different = self._of(pack_id), 0
        while found:
            different |= found & 0xFFFFFFFF
            found >>= 32
        return different.bit_count()

    def places(self, pack_id: bytes) -> list[tuple[str, int]]:
        """Each fragment of the pack, with the node that lists it."""
        return [
            (name, index) for name in self._shift for index in range(32) if self.has(name, pack_id, index)
        ]

    def holder(self, pack_id: bytes, index: int) -> str | None:
        """The first of them."""
        return next((name for name in self._shift if self.has(name, pack_id, index)), None)

    def _of(self, pack_id: bytes) -> int:
        return self._found.get(pack_id, 0) & self._kept


async def list_fragments(nodes: Mapping[str, Node], patience: float = math.inf) -> FragmentListing:
    """Ask all nodes, in parallel. One that takes longer than `patience` seconds for a page counts as away."""
    listing = FragmentListing(list(nodes))

    async def look(name: str, node: Node) -> None:
        try:
            async for page in pages(PatientNode(node, patience), "packs/"):
                for parsed in filter(None, map(parse_fragment_key, page)):
                    listing.add(name, *parsed)
        except DriveError:
            listing.forget(name)

    async with task_group() as group:
        for name, node in nodes.items():
            group.start_soon(look, name, node)
    listing.away.sort()
    return listing
