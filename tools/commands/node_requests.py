"""Changes of nodes that a running mount is asked for: `drivefs node ... MOUNTPOINT`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from backend.health import NodeChange, NodesWanted, PlaceWanted
from backend.nodes import NodePlace
from cache.messages import NODES_CHANGE, NODES_STOP, NODES_WAIT, Nothing
from tools import second_mount
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.host import mounts
from tools.terminal import complain, say


def mountpoint_of(drive: str) -> str | None:
    """The mountpoint of the drive on this machine, of a mount that shows the present; None: there is none.
    `drive` is its folder, or a mountpoint itself."""
    own = mounts.find(drive)
    if own is not None and own in mounts.drives():
        return own.mountpoint
    mounted = second_mount.place_of(os.path.abspath(drive))
    return None if mounted is None else mounted.mountpoint


def change(mountpoint: str, wanted: NodesWanted) -> int:
    """Have the mount do it, and return at its end. Who does not wait so long leaves it to the mount.
    `ToolError` with the mount's refusal, or the reason why not all was done."""
    client = ControlClient.of_mount(mountpoint)
    client.call(NODES_CHANGE, wanted)
    try:
        done = client.call(NODES_WAIT, Nothing()).change
    except KeyboardInterrupt:
        complain(
            f"drivefs: the mount goes on with it: drivefs status {mountpoint} says how far it is, "
            f"drivefs node stop {mountpoint} ends it"
        )
        raise
    return 0 if done is None else _told(done)


def stop(mountpoint: str) -> int:
    """End the change that is under way; what is done stays done."""
    client = ControlClient.of_mount(mountpoint)
    client.call(NODES_STOP, Nothing())
    ended = client.call(NODES_WAIT, Nothing()).change
    say(f"{mountpoint}: " + ("no change of its nodes was begun" if ended is None else how_it_ended(ended)))
    return 0


def wanted_places(places: Sequence[NodePlace]) -> tuple[PlaceWanted, ...]:
    """The places as a mount is told them. `ToolError` if one lies in a mounted drive: a node that is kept by
    the drive itself would wait for itself."""
    for place in places:
        around = None if place.folder is None else mounts.drive_around(place.folder)
        if around is not None:
            raise ToolError(f"{place}: lies in the drive that is mounted at {around.mountpoint}")
    return tuple(
        PlaceWanted(place.url, {name: str(value) for name, value in place.settings.items()})
        for place in places
    )


def _told(change: NodeChange) -> int:
    say(*change.said)
    if change.problem:
        raise ToolError(change.problem)
    return 0


def how_it_ended(change: NodeChange) -> str:
    """One line."""
    return f"{change.verb}: {change.problem or 'all is done'}"
