"""A node made anew, in its place or in another (`drivefs node replace`).

Replacing a node keeps its name, so the placement of everything stays as it was and only the fragments and
copies of that one node are made again. The order: the new folder (or its own, which is empty now) gets its
identity, then the map gets its place; then what the new node lacks is rebuilt.

What an empty voter says of the lease is no vote of the one that it replaces: of an odd number of voters a
majority could be made with it that no one of the last majority is in. So it loses the vote, and has it (or
another node has) as one more voter later. Of an even number two majorities have two in common. In its own
place it loses the vote before it is a node again: the map in force names that place.

An exchange that was interrupted when the node was made is gone on with: what the node lacks is rebuilt, and
votes are given. The same is done for a node that was there all the time; there it changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

import trio

from backend.cluster import DriveFile, check_nodes
from backend.errors import UsageError
from backend.failpoints import declare
from backend.nodes import IDENTITY_FILE, MAX_FILE_SIZE, NodeEntry, NodeIdentity, NodePlace, stored_url
from backend.system import THIS_MACHINE
from tools import drive_nodes, node_entries
from tools.errors import ToolError
from tools.host import mounts
from tools.node_changes import NodeChanges

VOTELESS: Final = declare("node.voteless", "a node that is made anew in its place has no vote; it is empty")
REPLACED: Final = declare("node.replaced", "the new place has its identity; the map is as it was")


async def exchange(changes: NodeChanges, name: str, place: NodePlace, zone: str | None) -> None:
    """Have the node of that name at `place`, where it is empty, or was made before (`is_made`). Raises as
    `require_replaceable`, and `UnavailableError`; `ConflictError` if the map was changed since it was
    read."""
    folder, file = changes.drive.folder, changes.file
    old = node_entries.named(file, name)
    await trio.to_thread.run_sync(require_replaceable, folder, file, old, place)
    if await trio.to_thread.run_sync(is_made, folder, file, old, place):
        return
    votes = keeps_vote(file, old)
    if old.votes and not votes and old.place(folder).way == place.way:
        await changes.have(partial(_without_vote, file, old))
        THIS_MACHINE.failpoints.reached(VOTELESS)
        file, old = changes.file, replace(old, votes=False)
    await changes.have(partial(with_new_node, folder, file, old, place, zone, votes=votes))


def keeps_vote(file: DriveFile, old: NodeEntry) -> bool:
    """Whether the node may vote from its new place at once."""
    voters = sum(entry.votes for entry in file.nodes)
    return old.votes and (voters == 1 or voters % 2 == 0)


def is_made(folder: str, file: DriveFile, old: NodeEntry, place: NodePlace) -> bool:
    """Whether `place` is that of the node in the map, and says so itself. Blocks."""
    return old.place(folder).way == place.way and check_nodes.answers_as_member(place, old, file.id)


def require_replaceable(folder: str, file: DriveFile, old: NodeEntry, place: NodePlace) -> None:
    """`UsageError`, `ToolError` or `NodeError` if the node cannot be made anew at `place`, and is not made
    there. It can be in its own, if that is no node any more. Blocks."""
    names = {entry.place(folder).way: entry.name for entry in file.nodes}
    name = names.get(place.way, old.name)
    if name != old.name:
        raise UsageError(f"{place}: is {name} already; another place is needed")
    if place.read(IDENTITY_FILE, MAX_FILE_SIZE) is None:
        _require_mounted(place)
        place.prepare()
        place.require_fit(old.name)
    elif place.way in names and not is_made(folder, file, old, place):
        raise UsageError(f"{place}: is {name}, and is there: fsck.drivefs -y {folder} mends what it lacks")


def with_new_node(
    folder: str, file: DriveFile, old: NodeEntry, place: NodePlace, zone: str | None, *, votes: bool
) -> tuple[NodeEntry, ...]:
    """All entries, with the new place, which has its identity then. `UnavailableError` if too many others are
    away. Blocks."""
    place.prepare()
    others = [entry for entry in file.nodes if entry.name != old.name]
    zone = zone or node_entries.zone_of(folder, others, place, [old.zone])
    place.initialise(NodeIdentity(old.name, file.id, zone))
    THIS_MACHINE.failpoints.reached(REPLACED)
    url = stored_url(place.url, folder)
    entry = replace(old, url=url, zone=zone, votes=votes, settings=place.settings)
    nodes = tuple(entry if each.name == old.name else each for each in file.nodes)
    new = replace(file, nodes=nodes)
    drive_nodes.require_enough_nodes(new, drive_nodes.nodes_away(folder, new))
    return nodes


def _require_mounted(place: NodePlace) -> None:
    """Refuse a mount point without its disk: what is written there is lost to view when that is back."""
    point = None if place.folder is None else mounts.awaited(place.folder)
    if point is not None:
        raise ToolError(f"{place}: nothing is mounted at {point}, which is in /etc/fstab: mount it first")


def _without_vote(file: DriveFile, old: NodeEntry) -> tuple[NodeEntry, ...]:
    return tuple(replace(each, votes=each.votes and each != old) for each in file.nodes)
