"""The entries of nodes in the drive file: finding one, making one for a new place, its zone and weight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backend.cluster import DriveFile
from backend.errors import UsageError
from backend.failpoints import declare
from backend.nodes import MAX_NODES, NodeEntry, NodeIdentity, NodePlace, stored_url
from backend.system import THIS_MACHINE
from tools import drive_nodes

IDENTIFIED: Final = declare("node.identified", "a new node has its identity; no map knows it")


def named(file: DriveFile, name: str) -> NodeEntry:
    """The node of that name; `UsageError`."""
    for entry in file.nodes:
        if entry.name == name:
            return entry
    raise UsageError(f"no node is named {name}; there are {', '.join(entry.name for entry in file.nodes)}")


def new_node(folder: str, file: DriveFile, place: NodePlace, zone: str | None) -> NodeEntry:
    """The entry of a node at `place`, which gets its identity. `UsageError`, `NodeError`. Blocks."""
    if len(file.nodes) >= MAX_NODES:
        raise UsageError(f"a drive has at most {MAX_NODES} nodes")
    name = _free_name(file)
    place.prepare()
    zone = zone or zone_of(folder, file.nodes, place)
    place.initialise(NodeIdentity(name, file.id, zone))
    THIS_MACHINE.failpoints.reached(IDENTIFIED)
    entry = NodeEntry(name, stored_url(place.url, folder), zone, votes=False, settings=place.settings)
    grown = replace(file, nodes=(*file.nodes, entry))
    return replace(entry, votes=drive_nodes.next_to_vote(folder, grown) == name)


def _free_name(file: DriveFile) -> str:
    """One number more than the highest."""
    numbers = [int(found[1]) for entry in file.nodes if (found := re.fullmatch(r"node(\d+)", entry.name))]
    return f"node{max(numbers, default=-1) + 1}"


def zone_of(folder: str, others: Sequence[NodeEntry], place: NodePlace, wanted: Sequence[str] = ()) -> str:
    """That of another node on the same disk, or server; else the first of `wanted` that no other has; else
    a new one."""
    for entry in others:
        other = entry.place(folder)
        if other.whereabouts() is not None and other.failure_domain() == place.failure_domain():
            return entry.zone
    taken = {entry.zone for entry in others}
    names = [*wanted, *(f"disk{number}" for number in range(len(others) + 2))]
    return next(name for name in names if name not in taken)


def reweighted(file: DriveFile, names: Sequence[str], weight: float) -> tuple[NodeEntry, ...]:
    """All entries, these with another weight."""
    return tuple(replace(each, weight=weight) if each.name in names else each for each in file.nodes)
