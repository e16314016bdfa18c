"""The removals of `mkfs.drivefs --force`: a drive that nobody uses, and nothing that is not drivefs'."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from backend.cluster import drive_file
from backend.commits import KEY, lease_record, life_of, this_process
from backend.errors import CorruptError, DriveError, FormatError, LeaseHeldError, NodeError, NotFoundError
from backend.nodes import NodePlace
from backend.system import ask, durable
from tools.errors import ToolError
from tools.host import mounts


def require_unused(folder: str, places: Sequence[NodePlace]) -> None:
    """`ToolError` or `LeaseHeldError` if the drive in `folder`, or one whose nodes these are, is mounted."""
    for mount in mounts.drives():
        if os.path.realpath(mount.source) == os.path.realpath(folder):
            raise ToolError(f"{folder}: the drive is mounted at {mount.mountpoint}; unmount it first")
    ask({node: partial(_require_no_holder, node) for node in _node_places(folder, places)})


def remove(folder: str, places: Sequence[NodePlace]) -> None:
    """Take away the old drive: its `drive.toml` first, so that no half of it looks whole; then its nodes.
    A node of another drive that has data, or of which that cannot be told (`OSError`), stays, and is an error
    before anything was removed."""
    own = _drive_id(folder)
    nodes = [node for node in _node_places(folder, places) if _may_go(node, own)]
    with suppress(FileNotFoundError):
        durable.current().unlink(os.path.join(folder, drive_file.FILE_NAME))
        durable.current().sync_folder(folder)
    for node in nodes:
        node.clear()


def _node_places(folder: str, places: Sequence[NodePlace]) -> list[NodePlace]:
    """Where the old drive says that its nodes are, and where the new one's will be."""
    with suppress(DriveError):
        old = drive_file.load(os.path.join(folder, drive_file.FILE_NAME))
        return sorted({*places, *(node.place(folder) for node in old.nodes)}, key=str)
    return list(places)


def _drive_id(folder: str) -> bytes | None:
    """The old drive's; None if there is none, or if its file cannot be read any more."""
    try:
        return drive_file.load(os.path.join(folder, drive_file.FILE_NAME)).id
    except (NotFoundError, FormatError):
        return None


def _require_no_holder(node: NodePlace) -> None:
    found = node.read(KEY, lease_record.MAX_SIZE)
    try:
        record = None if found is None else lease_record.decode(found)
    except (CorruptError, FormatError):
        record = None
    if record is None:
        return  # nothing there that could be in use
    if record.held and life_of(record.holder, this_process()) != "gone":
        raise LeaseHeldError(f"{node}: in use by process {record.holder.pid} on {record.holder.host}")


def _may_go(node: NodePlace, own: bytes | None) -> bool:
    """Whether the place is a node of the old drive, or one that an interrupted mkfs left without data."""
    try:
        found = node.identity(str(node))
    except NodeError:
        return False
    if found.drive_id == own or not _has_data(node):
        return True
    raise ToolError(f"{node}: a node of another drive, with data; it is not touched")


def _has_data(node: NodePlace) -> bool:
    """Fragments, or the folder of commits."""
    return node.holds("packs/", "commits/")
