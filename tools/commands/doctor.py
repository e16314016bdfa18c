"""`drivefs doctor`: is everything there that a mount needs, and if not, what is to be done?

It changes nothing. Each check gives findings of its own; none stops the others.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from backend.cluster import DriveFile
from backend.coding import Profile
from backend.errors import DriveError
from backend.nodes import UNKNOWN_SPACE, NodePlace
from cache.messages import MountStatus
from tools import compose, drive_nodes
from tools.capacity_report import describe_limit, describe_needs
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.host import mounts, places
from tools.quantities import counted, format_duration, format_size

State = Literal["ok", "note", "bad"]

_MARKS: Final = {"ok": "ok  ", "note": "note", "bad": "BAD "}
_PACKAGES: Final = ("apsw", "blake3", "cryptography", "pyeclib", "pyfastcdc", "pyfuse3", "trio", "zstandard")
_EARLIEST: Final = 1_767_225_600.0
"""2026-01-01: no correct clock is before this program was written."""
_LITTLE_SPACE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one check: `bad` keeps a drive from being mounted or read; `note` is worth knowing."""

    state: State
    text: str

    def __str__(self) -> str:
        return f"{_MARKS[self.state]} {self.text}"


def examine(drive: str | None = None) -> list[Diagnosis]:
    """All findings about this system and, if given, about the drive in the folder `drive`."""
    findings = [*_fuse(), *_helpers(), *_versions(), *_clock()]
    if drive is not None:
        findings += _drive(os.path.abspath(drive))
    return findings


def _fuse() -> Iterator[Diagnosis]:
    if os.path.exists("/dev/fuse"):
        yield Diagnosis("ok", "/dev/fuse is there")
    else:
        yield Diagnosis("bad", "/dev/fuse is missing: load the kernel module (modprobe fuse)")
    helper = shutil.which("fusermount3")
    if helper is None:
        yield Diagnosis("bad", "fusermount3 is missing: install the package fuse3")
    elif os.geteuid() != 0 and not os.stat(helper).st_mode & stat.S_ISUID:
        yield Diagnosis("bad", f"{helper} is not setuid root, so only root can mount")
    else:
        yield Diagnosis("ok", f"{helper} can mount")
    if os.geteuid() != 0 and not places.user_allow_other():
        yield Diagnosis("note", "allow_other is for root only: no line user_allow_other in /etc/fuse.conf")


def _helpers() -> Iterator[Diagnosis]:
    missing = [
        name for name in ("mount.drivefs", "umount.fuse.drivefs") if not os.path.exists(f"/sbin/{name}")
    ]
    if missing:
        names = ", ".join(f"/sbin/{name}" for name in missing)
        yield Diagnosis(
            "note", f"mount(8) and fstab do not know drivefs: {names} missing (make install-system)"
        )
    else:
        yield Diagnosis("ok", "mount(8), umount(8) and fstab know drivefs")


def _versions() -> Iterator[Diagnosis]:
    yield Diagnosis("ok", f"Linux {platform.release()}, Python {platform.python_version()}")
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    yield Diagnosis("ok", ", ".join(found))
    if missing:
        yield Diagnosis("bad", f"missing in {sys.prefix}: {', '.join(missing)}")


def _clock() -> Iterator[Diagnosis]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if time.time() < _EARLIEST:
        yield Diagnosis("bad", f"the clock says {now}: set it, or times of versions will be wrong")
    else:
        yield Diagnosis("ok", f"the clock says {now}")


def _drive(folder: str) -> Iterator[Diagnosis]:
    try:
        file = compose.load_drive(folder)
    except DriveError as error:
        yield Diagnosis("bad", str(error))
        return
    yield Diagnosis("ok", f"{folder}: drive {file.id.hex()}, profile {file.profile}")
    if needs := describe_needs(Profile.parse(file.profile)):
        yield Diagnosis("ok", needs)
    mounted = [mount.mountpoint for mount in mounts.drives() if mount.source == folder]
    for mountpoint in mounted:
        yield Diagnosis("ok", f"mounted at {mountpoint}")
    status = [_status_of(mountpoint) for mountpoint in mounted]
    yield _commits(drive_nodes.commit_interval(folder, file), [*filter(None, status)])
    if file.created.timestamp() > time.time() + 60:
        yield Diagnosis("bad", "the drive was made in the future: the clock is wrong, or was")
    yield from _nodes(folder, file)
    yield from _own_folders(file, [*filter(None, status)])


def _commits(usual: float, status: Sequence[MountStatus]) -> Diagnosis:
    """The interval of the drive's mount; that of the next one, if there is none."""
    written = [each.commit_interval for each in status if not each.read_only]
    text = f"changes are in a commit after {format_duration(written[0] if written else usual)}"
    if written and written[0] != usual:
        return Diagnosis("ok", f"{text}, as commit_interval= says; without it after {format_duration(usual)}")
    return Diagnosis("ok", text)


def _nodes(folder: str, file: DriveFile) -> Iterator[Diagnosis]:
    away = drive_nodes.nodes_away(folder, file)
    spare = Profile.parse(file.profile).m
    for error in away:
        yield Diagnosis("note" if len(away) <= spare else "bad", str(error))
    names = {error.node for error in away}
    takers = sum(entry.weight > 0 and entry.name not in names for entry in file.nodes)
    if takers < Profile.parse(file.profile).write_quorum:
        yield Diagnosis(
            "note",
            f"nothing can be stored now, with {counted(takers, 'node')}: a mount keeps it in its journal",
        )
    here = [entry for entry in file.nodes if entry.name not in names]
    for entry in here:
        place = entry.place(folder)
        if place.is_writable():
            yield from _space_of(entry.name, place)
        else:
            yield Diagnosis("bad", f"{entry.name}: {place}: no permission to read and write")
    if len(here) > 1 and len({entry.place(folder).failure_domain() for entry in here}) == 1:
        yield Diagnosis("note", "all nodes are on one disk, so they protect against no disk failure")
    small = describe_limit(file, {entry.name: entry.place(folder).space() for entry in here})
    if small is not None:
        yield Diagnosis("note", small)


def _space_of(name: str, place: NodePlace) -> Iterator[Diagnosis]:
    space = place.space()
    yield _room(f"{name}: {place}", space.free)
    if not space.allocates_ahead:
        why = "its file system allocates nothing ahead, so that nothing can be kept for the last deletions"
        yield Diagnosis("note", f"{name}: {place}: no ballast: {why}: leave room on it")


def _own_folders(file: DriveFile, status: Sequence[MountStatus]) -> Iterator[Diagnosis]:
    """Those that the drive's mounts use; those that one would, if there is none."""
    own = places.folders(file.id.hex(), None, None, os.environ)
    used = {("cache", str(own.cache)), ("state", str(own.state))}
    asked = {folder for each in status for folder in each.folders.items()}
    for what, folder in sorted(asked or used):
        yield _own_folder(what, Path(folder))


def _status_of(mountpoint: str) -> MountStatus | None:
    """None if the mount does not answer."""
    try:
        return ControlClient.of_mount(mountpoint).status()
    except ToolError:
        return None


def _own_folder(what: str, folder: Path) -> Diagnosis:
    existing = folder
    while not existing.is_dir():
        existing = existing.parent
    if os.access(existing, os.W_OK | os.X_OK):
        return _space(f"{what}: {folder}", str(existing))
    return Diagnosis("bad", f"{what}: {folder}: no permission to write")


def _space(what: str, path: str) -> Diagnosis:
    found = os.statvfs(path)
    return _room(what, found.f_bavail * found.f_frsize)


def _room(what: str, free: int) -> Diagnosis:
    if free >= UNKNOWN_SPACE.free:
        return Diagnosis("ok", f"{what}: space unknown")
    return Diagnosis("note" if free < _LITTLE_SPACE else "ok", f"{what}: {format_size(free)} free")
