"""A drive that is about to be made on nodes: its votes, drive file and recovery key. It is a new one, or one
that comes from a hub.

Order: the identities of the nodes come first, and last the drive's own `drive.toml`, exclusively: a drive
exists from that moment on or not at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from backend.cluster import DriveFile, drive_file
from backend.coding import ClusterNode, Profile, first_voters, require_nodes
from backend.errors import UsageError
from backend.keys import DRIVE_ID_SIZE, Secret, key_slots, new_drive_key, new_recovery_key
from backend.nodes import NodeEntry, NodePlace
from backend.system import THIS_MACHINE
from tools import new_nodes
from tools.drive_nodes import cluster_map
from tools.terminal import is_terminal


@dataclass(frozen=True, slots=True)
class Origin:
    """The id and the key of a drive, and the address that it is at (empty: it is here)."""

    id: bytes
    key: bytes = field(repr=False)
    moved: str = ""


def new_origin() -> Origin:
    """That of a drive that is not yet anywhere."""
    return Origin(os.urandom(DRIVE_ID_SIZE), new_drive_key())


def is_free(folder: str) -> bool:
    """Whether nothing is in the folder, or there is no such folder."""
    return not os.path.isdir(folder) or not set(os.listdir(folder)) - {"lost+found"}


def recovery_key(path: str | None) -> str | None:
    """A new recovery key, if there is a place for it: a file or a terminal."""
    if path is not None and os.path.lexists(path):
        raise UsageError(f"{path}: exists; a recovery key is only written to a new file")
    if path is not None and not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK):
        raise UsageError(f"{path}: no file for the recovery key can be made there")
    return new_recovery_key() if path is not None or is_terminal(sys.stdout) else None


def _with_votes(folder: str, nodes: tuple[NodeEntry, ...], may_be_lost: int) -> tuple[NodeEntry, ...]:
    able = [node for node in nodes if node.place(folder).may_vote()]
    voters = first_voters((ClusterNode(node.name, node.zone) for node in able), may_be_lost)
    if len(voters) <= may_be_lost:
        others = ", ".join(str(node.place(folder)) for node in nodes if node not in able)
        raise UsageError(
            f"{may_be_lost + 1} nodes at least must be on a disk of this machine or in an object store, to "
            f"keep the lease and the log; other machines serve {others}"
        )
    return tuple(replace(node, votes=node.name in voters) for node in nodes)


def recovery_lines(recovery: str) -> list[str]:
    """The lines that tell a person a recovery key which is in no file."""
    return ["Recovery key, to print and keep (it opens the drive):", "", f"    {recovery}", ""]


def opening(secret: Secret, recovery: str | None) -> list[Secret]:
    """The secrets that are to open the drive."""
    return [secret] if recovery is None else [secret, Secret.recovery(recovery)]


def described(
    folder: str, profile: Profile, places: Mapping[NodePlace, str], origin: Origin, secrets: Sequence[Secret]
) -> DriveFile:
    """The drive file of a drive with nodes at `places` (as of `new_nodes.planned`), which these secrets
    open. `UsageError`: it can have no such nodes."""
    nodes = _with_votes(folder, new_nodes.planned(folder, places), profile.m)
    drive = DriveFile(
        id=origin.id,
        name=os.path.basename(folder) or "drive",
        profile=str(profile),
        nodes=nodes,
        epoch=1,
        slots=tuple(key_slots.create_slot(each, origin.key, origin.id) for each in secrets),
        created=datetime.now(UTC),
        moved=origin.moved,
    )
    require_nodes(cluster_map(drive), profile.total)
    return drive


def write(folder: str, drive: DriveFile, recovery: str | None, recovery_file: str | None) -> None:
    """Make the drive. `OSError`, `FileExistsError`: there is one."""
    new_nodes.initialise(folder, drive.nodes, drive.id)
    if recovery is not None and recovery_file is not None:
        THIS_MACHINE.disk.write_file(
            os.path.abspath(recovery_file), [f"{recovery}\n".encode()], exclusive=True
        )
    for node in drive.nodes:
        node.place(folder).write(drive_file.FILE_NAME, drive_file.encode(drive))
    drive_file.save(os.path.join(folder, drive_file.FILE_NAME), drive, exclusive=True)
