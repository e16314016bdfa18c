"""Calls that change the nodes of a running drive. A change goes on whether its caller waits or not."""

from __future__ import annotations

from typing import Any

import trio

from backend.errors import ReadOnlyError
from backend.health import NodesWanted
from cache.drive import Drive
from cache.health import NodeChanging
from cache.messages import NODES_CHANGE, NODES_STOP, NODES_WAIT, NodeChangeShown, Nothing, Service


def node_services(drive: Drive) -> list[Service[Any, Any]]:
    """Those of `cache.messages.nodes`."""

    async def change(wanted: NodesWanted) -> Nothing:
        await trio.lowlevel.checkpoint()
        _changing(drive).begin(wanted)
        return Nothing()

    async def stop(_: Nothing) -> Nothing:
        await trio.lowlevel.checkpoint()
        _changing(drive).stop()
        return Nothing()

    async def wait(_: Nothing) -> NodeChangeShown:
        return NodeChangeShown(await _changing(drive).ended())

    return [Service(NODES_CHANGE, change), Service(NODES_STOP, stop), Service(NODES_WAIT, wait)]


def _changing(drive: Drive) -> NodeChanging:
    if drive.read_only or drive.node_changes is None:
        raise ReadOnlyError("the drive is open for reading only: its nodes cannot be changed")
    return drive.node_changes
