"""The mounts of this machine (the kernel's own table, /proc/self/mountinfo, proc(5)), and unmounting."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tools.errors import ToolError
from tools.host.mount_users import why_busy
from tools.hub_address import drive_on_nodes

FILE_SYSTEM_TYPE: Final = "fuse.drivefs"
HELPER: Final = "drivefs"
_MS_BIND: Final = 4096
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table. `device`: "major:minor"; `options`: those of this mountpoint; `owner`: the user
    who mounted, for FUSE only; `root`: what of the file system is seen here, "/" if it is all."""

    mountpoint: str
    type: str
    source: str
    device: str = ""
    options: frozenset[str] = frozenset()
    owner: int | None = None
    root: str = "/"


def parse(table: bytes) -> list[Mount]:
    """The mounts of a mountinfo text, in mount order (a later one covers an earlier one)."""
    # The kernel escapes blank, tab, newline and backslash in names, no other character that might end a line.
    return [_parse_line(line) for line in table.split(b"\n") if line]


def _parse_line(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    _, _, device, root, mountpoint, options = before.split(b" ")[:6]
    type_, source, of_all = after.split(b" ")[:3]
    owner = re.search(rb"(?:^|,)user_id=([0-9]+)", of_all)
    return Mount(
        _unescape(mountpoint),
        _unescape(type_),
        _unescape(source),
        device.decode("ascii"),
        frozenset(_unescape(options).split(",")),
        None if owner is None else int(owner[1]),
        _unescape(root),
    )


def _unescape(text: bytes) -> str:
    """As Python has file names, so that whatever the locale the bytes stay the same."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text))


def mounts() -> list[Mount]:
    """All mounts that this process sees."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def drives() -> list[Mount]:
    """The mounts of drivefs among them. `source` is the drive's absolute folder."""
    return [mount for mount in mounts() if mount.type == FILE_SYSTEM_TYPE]


def find(mountpoint: str) -> Mount | None:
    """The topmost mount on exactly `mountpoint`, or None. Does not touch the mount itself, so a
    dead one cannot hang or fail it."""
    path = absolute(mountpoint)
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == path), None)


def drive_around(path: str) -> Mount | None:
    """The drive that `path` lies in or is the mountpoint of, or None. Does not touch the mount."""
    whole = absolute(path)
    around = [each for each in mounts() if os.path.commonpath([each.mountpoint, whole]) == each.mountpoint]
    # Of mounts over one another the last is what is seen, and `max` takes the first.
    nearest = max(reversed(around), key=lambda each: len(each.mountpoint), default=None)
    return nearest if nearest is not None and nearest.type == FILE_SYSTEM_TYPE else None


def drive_folder(path: str) -> str:
    """The absolute folder of the drive that is mounted at `path`; `path` itself, absolute, where none is.
    `UsageError`: the drive is at a hub."""
    mount = find(drive_on_nodes(path))
    if mount is None or mount.type != FILE_SYSTEM_TYPE:
        return os.path.abspath(path)
    return drive_on_nodes(mount.source)


def awaited(path: str, table: str = "/etc/fstab") -> str | None:
    """The mount point of fstab(5) that `path` is or lies in, and where nothing is mounted; None if there is
    none."""
    whole = os.path.realpath(path)
    with suppress(FileNotFoundError), open(table, "rb") as file:
        lines = [line.split() for line in file if not line.lstrip().startswith(b"#")]
        named = (fields[1] for fields in lines if len(fields) > 1 and fields[1].startswith(b"/"))
        points = [absolute(_unescape(name)) for name in named]
        # The table of a process in a chroot has no line for its root.
        mounted = {"/", *(mount.mountpoint for mount in mounts())}
        around = (point for point in points if os.path.commonpath([point, whole]) == point)
        return next((point for point in around if point not in mounted), None)
    return None


def of_device(device: str) -> list[Mount]:
    """The mounts of one file system, in mount order: after the first they are bound (mount --bind)."""
    return [mount for mount in mounts() if mount.device == device]


def elsewhere(device: str) -> list[int]:
    """A process in each other mount namespace (mount_namespaces(7)) where the file system is mounted too, as
    far as we may look. `unshare --mount` copies all mounts, so that what is unmounted here goes on there."""
    seen = {os.readlink("/proc/self/ns/mnt")}
    found = []
    for process in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace in seen:
                continue
            with open(f"/proc/{process}/mountinfo", "rb") as file:
                table = parse(file.read())
        except OSError:
            continue  # it has ended, or belongs to somebody else
        seen.add(namespace)
        if any(mount.device == device for mount in table):
            found.append(process)
    return found


def absolute(mountpoint: str) -> str:
    """The path as the kernel's table has it: the parent resolved, the last part untouched (a dead
    mount cannot be resolved)."""
    parent, name = os.path.split(os.path.abspath(mountpoint))
    if os.path.islink(mountpoint):
        return os.path.realpath(mountpoint)
    return os.path.join(os.path.realpath(parent), name)


def is_dead(mountpoint: str) -> bool:
    """Whether the process behind a FUSE mount is gone (ENOTCONN, fuse(4)). Asks by statfs(2), which the
    kernel never answers from what it remembers."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount without umount(8)'s helpers (one of which calls this): umount(8) as root, else
    fusermount3(1). `ToolError` with what they say, and with who is in the mount if it is busy."""
    if os.geteuid() == 0:
        command = ["umount", "-i", *(["-l"] if lazy else []), mountpoint]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), mountpoint]
    # In the language in which "busy" is known.
    result = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if result.returncode:
        said = os.fsdecode(result.stderr).strip()
        if "busy" in said:
            raise ToolError(f"{said.rstrip('.')}; {why_busy(mountpoint)}")
        raise ToolError(said or f"{command[0]} ended with code {result.returncode}")


def show_also(mountpoint: str, place: str) -> None:
    """Have `place` show what `mountpoint` shows (mount(2), MS_BIND), for root. `ToolError`."""
    if _libc.mount(os.fsencode(mountpoint), os.fsencode(place), None, ctypes.c_ulong(_MS_BIND), None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ToolError(f"{place}: cannot show what is mounted at {mountpoint}: {reason}")


def note_helper(mount: Mount) -> None:
    """Have umount(8) look the mount up, and so find that it has a helper: of `umount /absolute/path` it else
    asks statfs(2), which says "fuse". This is the `uhelper=` of mount(8), in util-linux' own list of mounts
    (/run/mount/utab), which root may write; nothing is mounted (`--fake`). Where that cannot be done umount
    unmounts without draining first."""
    named = ["-t", mount.type, "-o", f"uhelper={HELPER}", mount.source, mount.mountpoint]
    subprocess.run(["mount", "--fake", "-i", *named], capture_output=True, check=False)


def forget_helper(mountpoint: str) -> None:
    """The mount is gone, and not by umount(8), which forgets by itself. Does nothing where nothing is
    noted."""
    subprocess.run(["umount", "--fake", "-i", mountpoint], capture_output=True, check=False)
