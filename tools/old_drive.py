"""Whether a drive is in use, and the removals of `mkfs.drivefs --force`: a drive that nobody uses, and
nothing that is not drivefs'.

What cannot be read says nothing: neither that a lease is free nor that a folder is no node.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from backend.cluster import DriveFile, check_places, drive_file
from backend.commits import KEY, lease_record, life_of, this_process
from backend.errors import (
    CorruptError,
    FormatError,
    LeaseHeldError,
    NodeError,
    NotFoundError,
    UnavailableError,
)
from backend.nodes import IDENTITY_FILE, MAX_FILE_SIZE, NodePlace
from backend.system import THIS_MACHINE, ask
from tools.errors import ToolError, describe
from tools.host import mounts
from tools.terminal import complain

_GOING: Final = ".going-drive.toml"
"""That of a drive that nobody uses and that is being removed: it says which nodes are its own."""


def require_unused(folder: str, file: DriveFile) -> None:
    """`ToolError` or `LeaseHeldError` if the drive is in use. `UnavailableError` if nobody can tell: those of
    the voters whose lease could not be read may be a majority, and so have given it to somebody."""
    voters = {entry.place(folder): entry.name for entry in file.nodes if entry.votes}
    require_unmounted(folder)
    unread = _leases_unread(folder, file)
    reasons = [unread[place] for place in voters if place in unread]
    if len(reasons) > len(voters) // 2:
        what = f"the lease cannot be read on {len(reasons)} of the {len(voters)} nodes that vote"
        raise UnavailableError(
            f"{folder}: nobody can tell whether the drive is in use: {what} ({'; '.join(reasons)}): bring "
            "them back (if their disks are only busy, try again), or, if they are lost for good, see drivefs "
            "node recover",
            [name for place, name in voters.items() if place in unread],
        )


def removable(folder: str, places: Sequence[NodePlace]) -> list[NodePlace]:
    """The places that `remove` is to empty for a new drive in `folder` with nodes at `places`: the old
    drive's nodes, and those that an interrupted mkfs left without data. `ToolError`, `LeaseHeldError` or
    `UnavailableError` if the old drive or one of the places is in use, a place holds another drive's data, or
    nobody can tell; `OSError`. A node of the old drive that the new one does not need may be away."""
    old = _drive_in(folder, drive_file.FILE_NAME)
    if old is None:
        require_unmounted(folder)
        old = _drive_in(folder, _GOING)
    else:
        require_unused(folder, old)
    own = None if old is None else old.id
    needed = ask({place: partial(_may_go, place, own) for place in places})
    for place in places:
        if place not in needed:
            raise ToolError(f"{place}: does not answer")
    found = needed if old is None else needed | _spare_nodes(folder, old, places)
    return sorted((place for place, may_go in found.items() if may_go), key=str)


def _spare_nodes(folder: str, old: DriveFile, places: Sequence[NodePlace]) -> dict[NodePlace, bool]:
    """Whether they may go, of the old drive's nodes that the new one does not need. One that cannot be read
    stays, and is told."""
    spare = {entry.place(folder) for entry in old.nodes} - {*places}
    found = ask({place: partial(_is_own_or_why_not, place, old.id) for place in spare})
    for place in spare:
        answer = found.setdefault(place, "does not answer")
        if isinstance(answer, str):
            complain(f"mkfs.drivefs: warning: {place}: the old drive's; it is not emptied: {answer}")
    return {place: answer is True for place, answer in found.items()}


def remove(folder: str, nodes: Sequence[NodePlace]) -> None:
    """Take away the old drive: its `drive.toml` first, so that no half of it looks whole; then what is at
    these places, which `removable` named. If it is interrupted, both go on from there. `ToolError`,
    `LeaseHeldError` or `OSError`, and nothing was done, if one of them came into use since, or nobody can
    tell: whoever gets the lease looks for `drive.toml` afterwards, and so is seen here or finds none."""
    io = THIS_MACHINE.disk
    own, going = (os.path.join(folder, name) for name in (drive_file.FILE_NAME, _GOING))
    with suppress(FileNotFoundError):
        io.rename(own, going)
        io.sync_folder(folder)
    try:
        _require_none_in_use(folder, nodes)
    except BaseException:
        with suppress(FileNotFoundError):
            io.rename(going, own)
            io.sync_folder(folder)
        raise
    for node in nodes:
        node.clear()
    with suppress(FileNotFoundError):
        io.unlink(going)
        io.sync_folder(folder)


def _require_none_in_use(folder: str, nodes: Sequence[NodePlace]) -> None:
    require_unmounted(folder)
    answers = ask({node: partial(_require_no_holder, node) for node in nodes})
    for node in nodes:
        if node not in answers:
            raise ToolError(f"{node}: does not answer")


def _drive_in(folder: str, name: str) -> DriveFile | None:
    """The old drive; None if there is none, or if its file cannot be understood any more."""
    try:
        return drive_file.load(os.path.join(folder, name))
    except (NotFoundError, FormatError):
        return None


def _leases_unread(folder: str, file: DriveFile) -> Mapping[NodePlace, str]:
    """The reasons why the lease could not be read, by the place of each node where it could not.
    `LeaseHeldError` if one says that the drive is in use."""
    names = {entry.place(folder): entry.name for entry in file.nodes}
    answers = ask({place: partial(_trouble_with_lease, place, name) for place, name in names.items()})
    found = {place: answers.get(place, f"{names[place]}: {place} does not answer") for place in names}
    return {place: why for place, why in found.items() if why is not None}


def require_unmounted(folder: str) -> None:
    """`ToolError` if this machine has the drive mounted."""
    for mount in mounts.drives():
        if os.path.realpath(mount.source) == os.path.realpath(folder):
            raise ToolError(f"{folder}: the drive is mounted at {mount.mountpoint}; unmount it first")


def _trouble_with_lease(node: NodePlace, name: str) -> str | None:
    """The reason why nothing is known of the lease there; None if it is free, as far as this node can tell.
    That no record is there says nothing where no node is, as on a disk that is not mounted."""
    try:
        if _require_no_holder(node) is None:
            node.identity(name)
    except (NodeError, FormatError) as error:
        return str(error)
    except OSError as error:
        return f"{name}: {node}: {describe(error)}"
    return None


def _require_no_holder(node: NodePlace) -> bytes | None:
    """The lease's record, which nobody holds; None if there is none. `LeaseHeldError`; `FormatError` if it is
    of another version, `OSError` if it cannot be read."""
    found = node.read(KEY, lease_record.MAX_SIZE)
    if found is None:
        return None
    try:
        record = lease_record.decode(found)
    except CorruptError:
        return found  # who holds the drive would have replaced it
    except FormatError as error:
        raise FormatError(f"{node}: {error}: another version of drivefs may use it") from None
    if record.held and life_of(record.holder, this_process()) != "gone":
        raise LeaseHeldError(f"{node}: in use by process {record.holder.pid} on {record.holder.host}")
    return found


def _is_own_or_why_not(node: NodePlace, own: bytes) -> bool | str:
    """Whether the place is the old drive's still, and not another one's that was made there since."""
    try:
        if node.read(IDENTITY_FILE, MAX_FILE_SIZE) is None or node.identity(str(node)).drive_id != own:
            return False
        _require_no_holder(node)
        foreign = _foreign_in(node)
        return f"it holds {foreign[0]}, which is not drivefs'" if foreign else True
    except (OSError, NodeError) as error:
        return describe(error)


def _may_go(node: NodePlace, own: bytes | None) -> bool:
    """Whether the place is a node of the old drive, or one that an interrupted mkfs left without data."""
    _require_no_holder(node)
    if node.read(IDENTITY_FILE, MAX_FILE_SIZE) is None:
        return False
    if node.identity(str(node)).drive_id != own and _has_data(node):
        raise ToolError(f"{node}: a node of another drive, with data; it is not touched")
    for foreign in _foreign_in(node):
        raise ToolError(f"{node}: holds {foreign}, which is not drivefs': move it away first")
    return True


def _foreign_in(node: NodePlace) -> list[str]:
    """The names of what somebody else keeps there, in a folder; in a store nobody does."""
    return [] if node.folder is None else check_places.foreign_in(node.folder)


def _has_data(node: NodePlace) -> bool:
    """Fragments, or the folder of commits."""
    return node.holds("packs/", "commits/")
