"""The calls that change the nodes of a mounted drive: `drivefs node`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backend.health import NodeChange, NodesWanted
from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class NodeChangeShown:
    """The change that is under way, or the last one; None: there was none."""

    change: NodeChange | None


NODES_CHANGE: Final = Call("nodes-change", NodesWanted, Nothing)
NODES_STOP: Final = Call("nodes-stop", Nothing, Nothing)
NODES_WAIT: Final = Call("nodes-wait", Nothing, NodeChangeShown)
