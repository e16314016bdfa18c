"""The nodes of a drive: where they are, which of them can be used, and how they are talked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from backend.cluster import DriveFile
from backend.coding import ClusterMap, ClusterNode, Profile, next_voter
from backend.commits import DEFAULT_SECONDS, STORE_SECONDS
from backend.errors import NodeError, UnavailableError
from backend.nodes import Node, NodeEntry, NodeIdentity, NodePlace, PatientNode, RetryNode
from backend.system import THIS_MACHINE, Environment, ask
from cache import defaults

TOOL_PATIENCE: Final = 60.0
"""Of tools that read and write whole fragments of every node: one that takes longer is away."""


def node_places(folder: str, file: DriveFile) -> list[NodePlace]:
    """The places of the drive's nodes."""
    return [entry.place(folder) for entry in file.nodes]


def node_folders(folder: str, file: DriveFile) -> list[str]:
    """The absolute paths of those that are folders of this machine."""
    return [place.folder for place in node_places(folder, file) if place.folder is not None]


def far_nodes(folder: str, file: DriveFile) -> list[NodeEntry]:
    """Those that are no folders of this machine: each request costs."""
    return [entry for entry in file.nodes if entry.place(folder).folder is None]


def commit_interval(folder: str, file: DriveFile) -> float:
    """Seconds between commits, unless a mount was told others: more if a voter, or most nodes, are far."""
    far = far_nodes(folder, file)
    costs = any(entry.votes for entry in far) or 2 * len(far) > len(file.nodes)
    return defaults.STORE_COMMIT_INTERVAL if costs else defaults.COMMIT_INTERVAL


def lease_seconds(folder: str, file: DriveFile) -> float:
    """For so long the holder of the drive's lease may be silent: longer if a voter is far."""
    far = far_nodes(folder, file)
    return STORE_SECONDS if any(entry.votes for entry in far) else DEFAULT_SECONDS


def nodes_away(folder: str, file: DriveFile) -> list[NodeError]:
    """The fault of each node that is missing, foreign, no node or does not answer. Blocks."""
    found = ask({entry: partial(_trouble_with, entry, entry.place(folder), file.id) for entry in file.nodes})
    silent = (
        NodeError(f"{entry.name}: {entry.place(folder)} does not answer", entry.name)
        for entry in file.nodes
        if entry not in found
    )
    return [*filter(None, found.values()), *silent]


def _trouble_with(entry: NodeEntry, place: NodePlace, drive_id: bytes) -> NodeError | None:
    try:
        found = place.identity(entry.name)
    except NodeError as error:
        return error
    if found.drive_id != drive_id:
        return NodeError(f"{entry.name}: {place} is a node of another drive", entry.name)
    if found.name != entry.name:
        return NodeError(f"{entry.name}: {place} is this drive's {found.name}", entry.name)
    return None


def require_enough_nodes(file: DriveFile, away: Sequence[NodeError]) -> None:
    """`UnavailableError` if so many nodes are away that not everything can be read."""
    spare = Profile.parse(file.profile).m
    if len(away) > spare:
        reasons = "; ".join(str(error) for error in away)
        raise UnavailableError(
            f"{len(away)} of {len(file.nodes)} nodes cannot be used, at most {spare} may be away: {reasons}",
            [error.node for error in away],
        )


def cluster_map(file: DriveFile) -> ClusterMap:
    """The map that says where fragments belong."""
    return ClusterMap(
        file.epoch, tuple(ClusterNode(node.name, node.zone, node.weight, node.votes) for node in file.nodes)
    )


def open_nodes(folder: str, file: DriveFile, environment: Environment = THIS_MACHINE) -> dict[str, Node]:
    """All nodes of the drive by name, also those that are away: each call finds out. See `patient`."""
    found: dict[str, Node] = {}
    for entry in file.nodes:
        identity = NodeIdentity(entry.name, file.id, entry.zone)
        found[entry.name] = entry.place(folder, environment).node(identity)
    return found


def patient(
    nodes: Mapping[str, Node], patience: float, environment: Environment = THIS_MACHINE
) -> dict[str, Node]:
    """These nodes; what is transient is tried again, and who has waited `patience` seconds is told so."""
    return {name: patient_node(patience, environment, node) for name, node in nodes.items()}


def patient_node(patience: float, environment: Environment, node: Node) -> Node:
    """One of `patient`."""
    return RetryNode(PatientNode(node, patience), environment=environment)


def parity(file: DriveFile) -> int:
    """The number of nodes that may be lost."""
    return Profile.parse(file.profile).m


def next_to_vote(folder: str, file: DriveFile) -> str | None:
    """The node that is to get a vote next, of those that answer and may; None if there is none. Blocks."""
    return next_voter(cluster_map(file), parity(file), able_to_vote(folder, file))


def able_to_vote(folder: str, file: DriveFile) -> set[str]:
    """The nodes that answer and may vote. Blocks."""
    found = ask({entry: partial(_may_vote, entry.place(folder)) for entry in file.nodes})
    return {entry.name for entry, may in found.items() if may}


def _may_vote(place: NodePlace) -> bool:
    try:
        return place.may_vote()
    except OSError:
        return False


def voting(nodes: Mapping[str, Node], file: DriveFile) -> dict[str, Node]:
    """Those of the nodes that vote."""
    return {entry.name: nodes[entry.name] for entry in file.nodes if entry.votes}
