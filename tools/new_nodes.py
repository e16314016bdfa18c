"""Nodes that are about to be made, of a drive or of a hub: their places, entries and identities."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from backend.errors import UsageError
from backend.nodes import NodeEntry, NodeIdentity, NodePlace, place_at
from tools.node_options import given_places


def node_places(
    folder: str, given: Sequence[str] | None, credentials: str | None, count: int
) -> dict[NodePlace, str]:
    """The places of the nodes to be, each with its URL as the file has it: nodes inside `folder` move with
    it, those at places that were given stay there. Without given ones, `count` nodes in `folder`.
    `UsageError`."""
    if given is not None:
        places = given_places(given, credentials)
        require_distinct(places, "the same folder is given for two nodes")
        return {place: place.url for place in places}
    return {place_at(f"node{at}", folder): f"node{at}" for at in range(count)}


def require_distinct(new: Sequence[NodePlace], what: str) -> None:
    """`UsageError` if two of the places are one, by whatever URLs, or one lies in another."""
    found = [(place, place.whereabouts()) for place in new]
    things = {place if there is None else there.thing for place, there in found}
    if len(things) != len(new):
        raise UsageError(what)
    ways = {place.way: place for place in new}
    for way, place in ways.items():
        for outer in (ways[way[:length]] for length in range(len(way)) if way[:length] in ways):
            raise UsageError(f"{place}: lies in {outer}, and no node lies in another")


def planned(folder: str, places: Mapping[NodePlace, str]) -> tuple[NodeEntry, ...]:
    """Nodes on one disk, or server, fail together, so they share a zone. Their places are there then."""
    os.makedirs(folder, exist_ok=True)
    disks: dict[Hashable, str] = {}
    entries = []
    for number, (place, url) in enumerate(places.items()):
        place.prepare()
        zone = disks.setdefault(place.failure_domain(), f"disk{len(disks)}")
        entries.append(NodeEntry(f"node{number}", url, zone, settings=place.settings))
    return tuple(entries)


def require_fit(folder: str, nodes: Sequence[NodeEntry], emptied: Collection[NodePlace] = ()) -> None:
    """See `NodePlace.require_fit`. The places `emptied` are going to be."""

    def look(node: NodeEntry) -> None:
        place = node.place(folder)
        place.require_fit(node.name, emptied=place in emptied)

    _at_all(nodes, look)


def initialise(folder: str, nodes: Sequence[NodeEntry], owner: bytes) -> None:
    """Make them the nodes of the drive or hub of that id; see `NodePlace.initialise`."""
    _at_all(nodes, lambda node: node.place(folder).initialise(NodeIdentity(node.name, owner, node.zone)))


def _at_all(nodes: Sequence[NodeEntry], work: Callable[[NodeEntry], None]) -> None:
    """All at once: a store is slow."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(work, nodes))
