"""`mount.drivefs`: mount a drive, in the background, and return when it answers.

Called by people and by mount(8): `mount.drivefs DRIVE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`.
The order, and why: 1. the heap is made one for all threads, before there is any: nodes are looked at in
threads; 2. whatever can be refused without touching the drive is refused, and the person is asked for the
passphrase, while this process still has the terminal; 3. fork; 4. the child opens the drive and mounts it;
5. the parent waits for that, sees for itself that the mount answers, and returns. Exit codes: `tools.errors`.
"""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend import file_limit
from backend.cluster import DriveFile, drive_file
from backend.errors import NodeError
from backend.remote import HubLogin, HubRoute
from backend.system import THIS_MACHINE, Environment, share_one_heap
from cache import defaults
from cache.drive import Drive
from cache.messages import S3DoorWanted
from cache.opening import DriveOptions
from cache.publish import Intervals
from gateway.control import Commands, ControlServer
from mountfs import process_tuning
from mountfs.session import Session
from mountfs.session_options import SessionOptions
from tools import (
    compose,
    drive_nodes,
    drive_opening,
    errors,
    mount_options,
    remount,
    second_mount,
)
from tools.compose import UnlockedDrive
from tools.errors import MOUNT_CODES, Parser, ToolError
from tools.host import daemon, mounts, namespaces, places
from tools.host.aside import aside
from tools.host.logs import log_to_file, log_to_terminal
from tools.host.mounts import Mount
from tools.host.places import Folders
from tools.hub.care import HubNodes
from tools.hub.departures import Departures
from tools.hub.drives import Address, HubDrives
from tools.hub.moving import Moving
from tools.hub.moving_back import MovingBack
from tools.hub.opening import DriveAtHub, opened_drive_at_hub
from tools.hub_address import is_at_hub
from tools.mount_control import commands_of
from tools.mount_options import MountOptions
from tools.mounted_nodes import MountedNodes
from tools.s3_doors import S3Doors
from tools.secret_source import SecretSource
from tools.terminal import complain, say

LOG_FILE: Final = "mount.log"

KeyedDrive = UnlockedDrive | DriveAtHub
"""A drive with its keys, whatever stores it."""


@dataclass(frozen=True, slots=True)
class _Mounting:
    """A mount that is to be served: of which drive, and where. `own`: the folders of the drive on this
    machine. `door`: that of S3, if one is wanted."""

    drive: KeyedDrive
    mountpoint: Path
    own: Folders
    how: SessionOptions
    door: S3DoorWanted | None
    environment: Environment


def main(environment: Environment = THIS_MACHINE) -> None:
    """The console script."""
    errors.run("mount.drivefs", MOUNT_CODES, partial(mount, environment=environment))


def mount(arguments: Sequence[str], environment: Environment = THIS_MACHINE) -> int:
    """The command; its exit code is 0, or that of the error that is raised. `environment`: of the device that
    mounts the drive."""
    arguments_ = _parse(arguments)
    if remount.is_asked(arguments_.options):
        return _remount(arguments_)
    options = mount_options.parse(arguments_.options, sloppy=arguments_.sloppy)
    mountpoint = os.path.realpath(arguments_.mountpoint)
    share_one_heap()
    if arguments_.namespace:
        namespaces.enter_mount_namespace(arguments_.namespace)
    drive = _prepare(arguments_.drive, mountpoint, options, environment)
    if arguments_.fake:
        return 0
    mounted = None if options.asof else _mounted(drive, options)
    if mounted is None:
        _start(drive, mountpoint, options, arguments_, environment)
    else:
        second_mount.show(mounted, mountpoint, options)
        _note_helper(mountpoint, arguments_)
    if arguments_.verbose or options.verbose:
        say(f"mount.drivefs: {drive.source} mounted on {mountpoint}")
    return 0


def _mounted(drive: KeyedDrive, options: MountOptions) -> Mount | None:
    """The place where it is mounted already. At a hub each state folder is a device, which may mount it."""
    own = _folders(drive.id_text, options)
    return second_mount.place_of(drive.source, own.state if isinstance(drive, DriveAtHub) else None)


def _remount(arguments: argparse.Namespace) -> int:
    if arguments.namespace:
        namespaces.enter_mount_namespace(arguments.namespace)
    mountpoint = mounts.absolute(arguments.mountpoint)
    remount.remount(mountpoint, arguments.options, sloppy=arguments.sloppy, fake=arguments.fake)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="mount.drivefs", description="Mount a drivefs drive.")
    add = parser.add_argument
    add("drive", metavar="DRIVE", help="the drive's folder, or https://HUB/NAME of one at a hub")
    add("mountpoint", metavar="MOUNTPOINT")
    add("-o", dest="options", action="append", default=[], metavar="OPTIONS", help="see docs/tools.md")
    add("--foreground", action="store_true", help="stay in the foreground and log to the terminal")
    add("-s", dest="sloppy", action="store_true", help="let unknown mount options pass")
    add("-f", dest="fake", action="store_true", help="check everything, mount nothing")
    add("-n", dest="no_mtab", action="store_true", help="accepted for mount(8)")
    add("-v", dest="verbose", action="store_true", help="say what is done")
    add("-N", dest="namespace", metavar="NS", help="the mount namespace: a process id or a path")
    add("-t", dest="type", metavar="TYPE", help="accepted for mount(8)")
    return parser.parse_intermixed_args(arguments)


def _warn(line: str) -> None:
    complain(f"mount.drivefs: warning: {line}")


def _tell(line: str) -> None:
    complain(f"mount.drivefs: {line}")


def _prepare(drive: str, mountpoint: str, options: MountOptions, environment: Environment) -> KeyedDrive:
    """Refuse what can be refused now, and get the drive's keys."""
    mount_options.require_fit(options, at_hub=is_at_hub(drive))
    places.check_fuse()
    file_limit.raise_as_far_as_allowed()
    if file_limit.limit() is not None:
        _warn(f"the journal and the databases of a drive grow{file_limit.hint()}")
    if options.allow_other:
        places.check_allow_other()
    if is_at_hub(drive):
        return _prepare_at_hub(drive, mountpoint, options, environment)
    return _prepare_on_nodes(os.path.abspath(drive), mountpoint, options)


def _prepare_at_hub(
    address: str, mountpoint: str, options: MountOptions, environment: Environment
) -> DriveAtHub:
    drives = HubDrives(Address.parse(address), os.environ, environment)
    places.free_mountpoint(mountpoint)
    drive = drives.found(_route(drives.login, options), _warn, read_only=options.read_only)
    own = _folders(drive.id_text, options)
    places.check_not_covered(mountpoint, [str(own.cache), str(own.state)])
    places.check_state_disk(own.state)
    return drive


def _prepare_on_nodes(folder: str, mountpoint: str, options: MountOptions) -> UnlockedDrive:
    file = compose.load_drive(folder)
    drive_file.require_here(folder, file)
    places.free_mountpoint(mountpoint)
    own = _folders(file.id.hex(), options)
    needed = [folder, str(own.cache), str(own.state), *drive_nodes.node_folders(folder, file)]
    places.check_not_covered(mountpoint, needed)
    places.check_not_inside(own, drive_nodes.node_folders(folder, file))
    places.check_state_disk(own.state)
    away = _nodes_away(folder, file)
    drive_nodes.require_enough_nodes(file, away)
    for error in away:
        _warn(str(error))
    source = SecretSource.chosen(
        os.environ, options.passphrase_file, options.key_file, options.passphrase_command
    )
    return compose.unlock(folder, file, source.secrets())


def _nodes_away(folder: str, file: DriveFile) -> list[NodeError]:
    """Of a drive with other nodes than folders, in a process of its own: this one is going to fork."""
    if len(drive_nodes.node_folders(folder, file)) == len(file.nodes):
        return drive_nodes.nodes_away(folder, file)
    found = aside(lambda: [(str(error), error.node) for error in drive_nodes.nodes_away(folder, file)])
    return [NodeError(*each) for each in found]


def _folders(drive_id: str, options: MountOptions) -> Folders:
    own = places.folders(drive_id, options.cache_dir, options.state_dir, os.environ)
    return places.spare_folders(own) if options.asof else own


def _start(
    drive: KeyedDrive,
    mountpoint: str,
    options: MountOptions,
    arguments: argparse.Namespace,
    environment: Environment,
) -> None:
    own = _folders(drive.id_text, options)
    for folder in (own.cache, own.state):
        places.make_private_folder(str(folder), environment.disk)
    verbose = options.verbose or arguments.verbose
    work = partial(_serve, drive, mountpoint, own, options, environment)
    environment.failpoints.arm_from_environment()
    if arguments.foreground:
        log_to_terminal(verbose=verbose)
        work(lambda: None)
        return
    log_to_file(os.path.abspath(options.log_file or own.state / LOG_FILE), verbose=verbose)
    daemon.start(work, MOUNT_CODES)
    _see_for_ourselves(mountpoint)
    _note_helper(mountpoint, arguments)


def _note_helper(mountpoint: str, arguments: argparse.Namespace) -> None:
    found = mounts.find(mountpoint)
    if found is not None and os.geteuid() == 0 and not arguments.no_mtab:
        mounts.note_helper(found)


def _see_for_ourselves(mountpoint: str) -> None:
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        raise ToolError(f"{mountpoint}: mounted, but it does not answer: {error.strerror}") from None


def _open_many_files() -> None:
    """Fragments that are read at random stay open (`backend.nodes.open_files`): take all that the user may
    have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _serve(
    drive: KeyedDrive,
    mountpoint: str,
    own: Folders,
    options: MountOptions,
    environment: Environment,
    ready: daemon.Ready,
) -> None:
    """The life of a mount, from opening the drive to closing it."""
    _open_many_files()
    how = SessionOptions(
        source=drive.source,
        read_only=options.read_only,
        allow_other=options.allow_other,
        suid="nosuid" not in options.kernel_flags,
        dev="nodev" not in options.kernel_flags,
        exec="noexec" not in options.kernel_flags,
        access_times=not options.noatime,
        access_lists=options.access_lists,
        coherent_opens=options.coherence == mount_options.AT_OPEN,
        versions_name=os.fsencode(options.versions_dir) or None,
        as_of=options.asof,
    )
    what = DriveOptions(
        cache_size=options.cache_size,
        cache_disk=options.cache_disk,
        journal_size=options.journal_size,
        intervals=Intervals(
            commit=options.commit_interval or _commit_interval(drive),
            version=options.version_interval,
        ),
        read_only=options.read_only,
    )
    opened = _opening(drive, own, what, options, environment)
    process_tuning.prepare_process()
    door = S3DoorWanted(options.s3, options.s3_root) if options.s3 else None
    mounting = _Mounting(drive, Path(mountpoint), own, how, door, environment)
    trio.run(_serve_until_unmounted, opened, mounting, ready)


def _commit_interval(drive: KeyedDrive) -> float:
    """Seconds, unless the person says others. One that others write too does not wait so long."""
    if isinstance(drive, DriveAtHub):
        return defaults.COMMIT_INTERVAL
    return drive_nodes.commit_interval(drive.folder, drive.file)


def _opening(
    drive: KeyedDrive, own: Folders, what: DriveOptions, options: MountOptions, environment: Environment
) -> AbstractAsyncContextManager[Drive]:
    if isinstance(drive, DriveAtHub):
        route = _route(drive.login, options)
        return opened_drive_at_hub(drive, own, what, route, waiting=_tell, environment=environment)
    return drive_opening.opened_drive(
        drive, own, what, scrub_interval=options.scrub_interval, waiting=_tell, environment=environment
    )


def _route(login: HubLogin, options: MountOptions) -> HubRoute:
    kept = login.route
    return HubRoute(
        options.ca_file or kept.ca_file,
        options.proxy or kept.proxy,
        options.upload_limit,
        options.download_limit,
    )


async def _serve_until_unmounted(
    opening: AbstractAsyncContextManager[Drive], mounting: _Mounting, ready: daemon.Ready
) -> None:
    async with opening as opened:
        for notice in opened.notices:
            _warn(notice)
        await _serve_doors(opened, mounting, ready)
        if os.geteuid() == 0:
            # Before the drive is let go of: the next mount of it may be in the same place.
            await trio.to_thread.run_sync(mounts.forget_helper, str(mounting.mountpoint))


async def _serve_doors(opened: Drive, mounting: _Mounting, ready: daemon.Ready) -> None:
    """The mount, and the doors of S3 beside it until it ends."""
    async with trio.open_nursery() as nursery:
        if isinstance(opened.node_changes, MountedNodes):
            opened.node_changes.let_leave(Moving(opened, os.environ, mounting.environment))
        departures = _departures(mounting)
        if departures is not None:
            nursery.start_soon(departures.run)
        if isinstance(opened.node_changes, HubNodes) and isinstance(mounting.drive, DriveAtHub):
            opened.node_changes.let_leave(
                MovingBack(opened, mounting.drive, mounting.own, os.environ, mounting.environment)
            )
        doors = S3Doors(opened, mounting.drive.keys)
        await nursery.start(doors.run)
        if mounting.door is not None:
            await doors.open(mounting.door)
        session = Session(opened, mounting.mountpoint, mounting.how)
        control = ControlServer(
            mounting.own.control, doors.beside(_commands(opened, session, mounting, departures))
        )
        try:
            await session.serve(control, ready, doors.end)
        finally:
            nursery.cancel_scope.cancel()


def _departures(mounting: _Mounting) -> Departures | None:
    """None: the drive is at a hub, or nothing is written."""
    drive = mounting.drive
    if not isinstance(drive, UnlockedDrive) or mounting.how.read_only:
        return None
    return Departures(drive.folder, drive.file, mounting.own.state, os.environ, mounting.environment)


def _commands(
    opened: Drive, session: Session, mounting: _Mounting, departures: Departures | None
) -> Commands:
    drive, own, how = mounting.drive, mounting.own, mounting.how
    return commands_of(
        opened,
        session,
        versions_name=b"" if how.as_of else how.versions_name or b"",
        folders={"cache": str(own.cache), "state": str(own.state)},
        hub=drive.login.url if isinstance(drive, DriveAtHub) else "",
        problem=lambda: "" if departures is None else departures.problem,
    )
