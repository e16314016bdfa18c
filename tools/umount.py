"""`umount.drivefs`: store everything, unmount, and return when the drive can be mounted again.

Also called by umount(8) (`/sbin/umount.fuse.drivefs DIR [-flnrv] [-N NS] [-t TYPE.SUBTYPE]`).
Order: 1. drain through the control socket, while programs can still use the mount; 2. unmount, which
the kernel refuses while a file is open; 3. wait until the process behind the mount has ended, as only
then its lease and its state folder are free. If 1 fails the mount stays, unless it is forced: then the
journal keeps what is not stored, and the next mount of the drive goes on with it.

A drive that is bound to other places too (mount --bind) goes on until the last is unmounted: 1 is done for
the first that the kernel has in its table, 3 for the last. So it is with one that another mount namespace has
a copy of (`unshare --mount`): that is said, and not waited for.
"""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Sequence
from contextlib import closing

from backend.errors import DriveError
from tools import errors
from tools.control_client import ControlClient, NoAnswerError, NothingToStoreError, NotMountedError
from tools.deadline import Deadline
from tools.errors import MOUNT_CODES, Parser, ToolError
from tools.host import mounts, namespaces
from tools.quantities import parse_duration
from tools.terminal import complain, say

_STAYS = "-f unmounts at once, and the journal keeps what is not stored"
_END_SECONDS = 150.0
"""How long an unmounted process may take to end: two minutes beside a node that hangs (docs/recovery.md)."""
_LOOK_SECONDS = 2.0
"""After so long it is asked whether another mount namespace keeps the process."""


def main() -> None:
    """The console script."""
    errors.run("umount.drivefs", MOUNT_CODES, umount)


def umount(arguments: Sequence[str]) -> int:
    """The command; its exit code is 0, or that of the error that is raised."""
    options = _parse(arguments)
    if options.namespace:
        namespaces.enter_mount_namespace(options.namespace)
    mount = mounts.find(options.mountpoint)
    if mount is None:
        around = mounts.drive_around(options.mountpoint)
        where = "" if around is None else f"; the drive that it is in is mounted at {around.mountpoint}"
        raise NotMountedError(f"{options.mountpoint}: not mounted{where}")
    if mount.type != mounts.FILE_SYSTEM_TYPE:
        raise NotMountedError(f"{options.mountpoint}: what is mounted here is {mount.type}, no drivefs drive")
    code = 0
    if mount == mounts.of_device(mount.device)[0]:
        code = _unmount_drive(mount, options)
    else:
        mounts.unmount(mount.mountpoint, lazy=options.lazy)
    if options.verbose:
        say(f"umount.drivefs: {mount.mountpoint} unmounted")
    return code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="umount.drivefs", description="Store everything, then unmount a drivefs drive.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument(
        "--timeout",
        type=parse_duration,
        metavar="S",
        help="give up (and stay mounted) if not all is stored after this time (default: wait)",
    )
    add = parser.add_argument
    add("-f", "--force", action="store_true", help="do not wait until all is stored: the journal keeps it")
    add("-l", "--lazy", action="store_true", help="detach now, end when nobody uses it any more")
    add("-n", "--no-mtab", action="store_true", help="accepted for umount(8)")
    add("-r", "--read-only", action="store_true", help="accepted for umount(8), without effect")
    add("-v", "--verbose", action="store_true", help="say what is done")
    add("-N", dest="namespace", metavar="NS", help="the mount namespace: a process id or a path")
    add("-t", dest="type", metavar="TYPE", help="accepted for umount(8)")
    return parser.parse_intermixed_args(arguments)


def _unmount_drive(mount: mounts.Mount, options: argparse.Namespace) -> int:
    """The exit code, if it went well."""
    deadline = Deadline(options.timeout)
    process, code = _drain(options)
    mounts.unmount(mount.mountpoint, lazy=options.lazy)
    if process is None:
        _see_that_it_is_kept(mount)
        return code
    with closing(process):
        if left := mounts.of_device(mount.device):
            where = ", ".join(each.mountpoint for each in left)
            complain(
                f"umount.drivefs: {mount.mountpoint}: unmounted, but the drive is still mounted at {where}"
            )
        elif not options.lazy:
            _wait_for_end(process, mount, deadline)
    return code


def _wait_for_end(process: _Process, mount: mounts.Mount, deadline: Deadline) -> None:
    """Return when the process has ended, or it is said who keeps it. `ToolError` if the time is over."""
    seconds = (
        _END_SECONDS if (left := deadline.left()) is None else max(min(left, _END_SECONDS), _LOOK_SECONDS)
    )
    if process.has_ended(_LOOK_SECONDS):
        return
    if keepers := mounts.elsewhere(mount.device):
        which = ", ".join(map(str, keepers))
        complain(
            f"umount.drivefs: {mount.mountpoint}: unmounted here, but still mounted in the mount "
            f"namespace of process {which}"
        )
    elif not process.has_ended(seconds):
        raise ToolError(
            f"{mount.mountpoint}: all is done and unmounted, but the process behind it has not ended after "
            f"{seconds:.0f} s; until it has, the drive cannot be mounted here again"
        )


def _see_that_it_is_kept(mount: mounts.Mount) -> None:
    """Return if what a dead mount had not stored is in a journal. `ToolError` if that is not known."""
    if "ro" in mount.options:
        return
    # What these need takes longer to import than a mount takes to unmount.
    from tools.drive_ids import drive_id_of
    from tools.host import places

    try:
        state = places.state_folder(drive_id_of(mount.source).hex(), None, os.environ)
    except DriveError as error:  # its folder is away, or its login was ended
        raise ToolError(
            f"{mount.mountpoint}: unmounted, but nobody answered, and its journal cannot be found: {error}"
        ) from None
    if not places.has_journal(state):
        raise ToolError(
            f"{mount.mountpoint}: unmounted, but nobody answered and there is no journal in {state} "
            "(state_dir= may have named another place): what was not stored may be lost"
        )
    complain(f"umount.drivefs: {mount.mountpoint}: what was not stored is in the journal in {state}")


class _Process:
    """The process behind a mount, held so that its number cannot come to mean another."""

    def __init__(self, process_id: int) -> None:
        self._descriptor = os.pidfd_open(process_id)

    def has_ended(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`; returns as soon as it has."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        os.close(self._descriptor)


def _drain(options: argparse.Namespace) -> tuple[_Process | None, int]:
    """Have everything stored. Returns the process to wait for (None: it is gone already), and the exit code
    that says how it is stored."""
    process, code = None, 0
    try:
        client = ControlClient.of_mount(options.mountpoint)
        process = _Process(client.process_id())
        if not options.force:
            synced = client.sync(options.mountpoint, options.timeout)
            for line in filter(None, synced):
                complain(f"umount.drivefs: {options.mountpoint}: all is stored; {line}")
            code = errors.PARTLY if synced.short else 0
    except (NoAnswerError, ProcessLookupError) as error:
        if process is not None and not options.force:
            raise ToolError(f"{options.mountpoint} stays mounted: {error} ({_STAYS})") from None
        complain(f"umount.drivefs: {options.mountpoint}: nobody answers")
    except NothingToStoreError as error:
        complain(f"umount.drivefs: {options.mountpoint}: nothing waits to be stored; {error}")
    except ToolError as error:
        raise ToolError(f"{options.mountpoint} stays mounted: {error} ({_STAYS})") from None
    return process, code
