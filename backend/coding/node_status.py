"""The state of a node, as the node itself reports it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from backend.coding.capacity import is_full
from backend.errors import DriveError
from backend.nodes import Node
from backend.system import task_group
from backend.upstream import NodeStatus

STATUS_PATIENCE: Final = 2.0


async def ask_status(nodes: Iterable[Node]) -> dict[str, NodeStatus]:
    """By name. All are asked at once; one that does not answer for `STATUS_PATIENCE` seconds is not well."""
    found: dict[str, NodeStatus] = {}
    async with task_group() as group:
        for node in nodes:
            group.start_soon(_ask, node, found)
    return found


async def _ask(node: Node, found: dict[str, NodeStatus]) -> None:
    found[node.name] = NodeStatus(node.name, node.zone, f"no answer within {STATUS_PATIENCE:g} s")
    with anyio.move_on_after(STATUS_PATIENCE):
        try:
            await node.check()
            space = await node.space()
            found[node.name] = NodeStatus(
                node.name,
                node.zone,
                "ok",
                total=space.total,
                free=space.free,
                filesystem=space.filesystem,
                full=is_full(space),
                allocates_ahead=space.allocates_ahead,
            )
        except DriveError as error:
            found[node.name] = NodeStatus(node.name, node.zone, str(error))
