"""What `mkfs.drivefs --force` may take away: a drive that nobody uses, and nothing that is not drivefs'."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from backend.cluster import drive_file
from backend.commits import lease, lease_record, life_of, this_process
from backend.errors import CorruptError, DriveError, FormatError, LeaseHeldError, NodeError, NotFoundError
from backend.nodes import files as node_files
from backend.nodes import identity as node_identity
from backend.system import ask, durable
from tools.errors import ToolError
from tools.host import mounts


def require_unused(folder: str, paths: Sequence[str]) -> None:
    """`ToolError` or `LeaseHeldError` if the drive in `folder`, or one whose nodes these are, is mounted."""
    for mount in mounts.drives():
        if os.path.realpath(mount.source) == os.path.realpath(folder):
            raise ToolError(f"{folder}: the drive is mounted at {mount.mountpoint}; unmount it first")
    ask({node: partial(_require_no_holder, node) for node in _node_folders(folder, paths)})


def remove(folder: str, paths: Sequence[str]) -> None:
    """Take away the old drive: its `drive.toml` first, so that no half of it looks whole; then its nodes.
    A node of another drive that has data stays, and is an error."""
    own = _drive_id(folder)
    nodes = [node for node in _node_folders(folder, paths) if _may_go(node, own)]
    with suppress(FileNotFoundError):
        durable.current().unlink(os.path.join(folder, drive_file.FILE_NAME))
        durable.current().sync_folder(folder)
    for node in nodes:
        _empty(node)


def _node_folders(folder: str, paths: Sequence[str]) -> list[str]:
    """Where the old drive says that its nodes are, and where the new one's will be."""
    with suppress(DriveError):
        old = drive_file.load(os.path.join(folder, drive_file.FILE_NAME))
        return sorted({*paths, *(node.folder(folder) for node in old.nodes)})
    return list(paths)


def _drive_id(folder: str) -> bytes | None:
    """The old drive's; None if there is none, or if its file cannot be read any more."""
    try:
        return drive_file.load(os.path.join(folder, drive_file.FILE_NAME)).id
    except (NotFoundError, FormatError):
        return None


def _require_no_holder(node: str) -> None:
    try:
        record = lease_record.decode(node_files.read_at_most(node, lease.KEY, lease_record.MAX_SIZE + 1))
    except (OSError, CorruptError, FormatError):
        return  # nothing there that could be in use
    if record.held and life_of(record.holder, this_process()) != "gone":
        raise LeaseHeldError(f"{node}: in use by process {record.holder.pid} on {record.holder.host}")


def _may_go(node: str, own: bytes | None) -> bool:
    """Whether the folder is a node of the old drive, or one that an interrupted mkfs left without data."""
    try:
        found = node_identity.read_identity(node, os.path.basename(node))
    except NodeError:
        return False
    if found.drive_id == own or not _has_data(node):
        return True
    raise ToolError(f"{node}: a node of another drive, with data; it is not touched")


def _has_data(node: str) -> bool:
    return any(os.path.isdir(os.path.join(node, name)) for name in ("packs", "commits"))


def _empty(node: str) -> None:
    for name in os.listdir(node):
        path = os.path.join(node, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
