"""Which folders a mount uses, and whether they can be used: its cache, its state, and the mountpoint.

The cache folder holds only what may be lost: the block index, which is made anew from the nodes, and the
records of scrubs and repairs. The state folder holds what must not be lost: the journal, the namespace with
the newest commit that this machine has seen, and the lock. Anybody may empty a cache; nobody may empty a
state folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shlex
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from backend.system import Durable
from cache.journal import SUFFIX
from cache.local import JOURNAL, LOCK_FILE
from tools.errors import MissingSystemError, ToolError
from tools.host import mounts

CACHE_VARIABLE: Final = "DRIVEFS_CACHE_DIR"
STATE_VARIABLE: Final = "DRIVEFS_STATE_DIR"
_LEAST_ROOM: Final = 256 << 10
"""For the databases' shared memory and a smallest journal segment."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of a drive on this machine. Absolute paths."""

    cache: Path
    state: Path

    @property
    def control(self) -> Path:
        """The socket of the process that has the drive open."""
        return self.state / "control"


def folders(
    drive_id: str, cache_dir: str | None, state_dir: str | None, environment: Mapping[str, str]
) -> Folders:
    """The folders of the drive `drive_id`: each in the folder that was asked for (`cache_dir=`,
    `state_dir=`), else in that of the environment, else in its standard place. To ask for one moves the
    other nowhere: another cache is no other machine."""
    return Folders(
        Path(cache_folder(drive_id, cache_dir, environment)),
        Path(state_folder(drive_id, state_dir, environment)),
    )


def cache_folder(drive_id: str, asked: str | None, environment: Mapping[str, str]) -> str:
    """The absolute path of the cache folder of the drive `drive_id`: in the folder that was asked for
    (`cache_dir=`), else in `$DRIVEFS_CACHE_DIR`, else in the system's place for caches (root), else in
    the person's (XDG Base Directory Specification)."""
    base = asked or environment.get(CACHE_VARIABLE)
    return _folder(drive_id, base, "/var/cache/drivefs", "XDG_CACHE_HOME", ".cache", environment)


def state_folder(drive_id: str, asked: str | None, environment: Mapping[str, str]) -> str:
    """As `cache_folder`: `state_dir=`, `$DRIVEFS_STATE_DIR`, the system's place for state, the person's."""
    base = asked or environment.get(STATE_VARIABLE)
    return _folder(drive_id, base, "/var/lib/drivefs", "XDG_STATE_HOME", ".local/state", environment)


def hubs_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the logins at hubs: beside the state folders of drives, which are named by ids."""
    return Path(state_folder("hubs", None, environment))


def _folder(
    drive_id: str,
    base: str | None,
    of_system: str,
    variable: str,
    in_home: str,
    environment: Mapping[str, str],
) -> str:
    """HOME may be unset, as under systemd."""
    if not base and os.geteuid() == 0:
        base = of_system
    if not base:
        home = environment.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
        base = os.path.join(environment.get(variable) or os.path.join(home, in_home), "drivefs")
    return os.path.join(os.path.abspath(base), drive_id)


def spare_folders(own: Folders) -> Folders:
    """Folders for one more mount of a drive, which only looks: the first of `FOLDER.past-1`, `.past-2`, ...
    whose state no process holds. What an earlier mount left there makes opening quicker."""
    for number in count(1):
        spare = Folders(*(path.with_name(f"{path.name}.past-{number}") for path in (own.cache, own.state)))
        if not _is_held(os.path.join(spare.state, LOCK_FILE)):
            break
    return spare


def has_journal(state_folder: str) -> bool:
    """Whether there is one, with something in it."""
    return any(Path(state_folder, JOURNAL).glob("*" + SUFFIX))


def _is_held(lock: str) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def make_private_folder(path: str, disk: Durable) -> None:
    """Make the folder `path` (and those above it), durably and for this user only: state holds plaintext and
    the control socket. `ToolError` if it is somebody else's."""
    try:
        disk.make_folders(path)
        found = os.stat(path)
        if found.st_uid != os.geteuid():
            raise ToolError(f"{path}: belongs to another user; choose another cache_dir or state_dir")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise ToolError(f"{path}: cannot be used for cache or state: {error.strerror}") from None


def check_state_disk(state: Path, *, room: bool = True) -> None:
    """`ToolError` that says what to do if a state folder cannot be written, or (with `room`) its disk has
    none left for the databases to be opened. Returns if there is no such folder."""
    if not state.is_dir():
        return
    disk = os.statvfs(state)
    if disk.f_flag & os.ST_RDONLY:
        raise ToolError(
            f"{state}: the disk of the state folder is mounted read-only, and even to read a drive takes "
            "locks and databases there: mount that disk for writing, or name another folder by state_dir "
            "(what waits in the journal here then stays here)"
        )
    left = disk.f_bavail * disk.f_frsize
    if room and left < _LEAST_ROOM:
        raise ToolError(
            f"{state}: the disk of the state folder is full ({left >> 10} KiB left, {_LEAST_ROOM >> 10} are "
            "needed): make room there; what waits in the journal is kept"
        )


def check_not_inside(own: Folders, nodes: Iterable[str]) -> None:
    """`ToolError` that says what to do if state or cache lie in a node's folder: they hold plaintext, and
    nothing but ciphertext is to be where the nodes are."""
    for node in nodes:
        inside = os.path.realpath(node)
        for path in (own.state, own.cache):
            if os.path.commonpath([inside, os.path.realpath(path)]) == inside:
                what = f"{path} lies in the node {node}: choose a cache_dir and state_dir outside of it"
                raise ToolError(what + _how_to_move(path))


def _how_to_move(folder: Path) -> str:
    """To be said of a state folder that must not be left behind."""
    if not has_journal(str(folder)):
        return ""
    source = shlex.quote(os.path.realpath(folder))
    return (
        "; changes that are not stored yet may be in its journal, so take it along: "
        f"mv {source} NEWFOLDER/, then mount with -o state_dir=NEWFOLDER (fsck.drivefs: --state-dir)"
    )


def check_fuse() -> None:
    """`MissingSystemError` if this system cannot mount by FUSE now."""
    if not os.path.exists("/dev/fuse"):
        raise MissingSystemError("/dev/fuse: no such device; load the kernel module: modprobe fuse")
    if shutil.which("fusermount3") is None:
        raise MissingSystemError("fusermount3 is not installed (Debian: apt install fuse3)")


def free_mountpoint(path: str) -> None:
    """Return if something can be mounted at the folder `path`; a dead drivefs mount there (its
    process was killed) is taken away first. `ToolError` otherwise."""
    mount = mounts.find(path)
    if mount is not None and mount.type == mounts.FILE_SYSTEM_TYPE:
        if not mounts.is_dead(path):
            raise ToolError(f"{path}: a drive is mounted here already ({mount.source})")
        mounts.unmount(mount.mountpoint, lazy=True)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ToolError(f"{path}: {_why(error)}") from None
    if not stat.S_ISDIR(mode):
        raise ToolError(f"{path}: the mountpoint is not a folder")


def _why(error: OSError) -> str:
    return "the mountpoint does not exist" if error.errno == errno.ENOENT else str(error.strerror)


def check_not_covered(mountpoint: str, needed: Iterable[str]) -> None:
    """`ToolError` if one of the folders that the mount itself needs lies under the mountpoint: it would
    wait for itself."""
    cover = os.path.realpath(mountpoint)
    for path in needed:
        if os.path.commonpath([cover, os.path.realpath(path)]) == cover:
            raise ToolError(f"{mountpoint}: the mount would cover {path}, which it needs itself")


def check_allow_other() -> None:
    """PermissionError if fuse.conf does not let this user mount with allow_other (mount.fuse3(8))."""
    if os.geteuid() != 0 and not user_allow_other():
        raise PermissionError("allow_other needs the line 'user_allow_other' in /etc/fuse.conf")


def user_allow_other(configuration: str = "/etc/fuse.conf") -> bool:
    """Whether fuse.conf says `user_allow_other`."""
    try:
        with open(configuration, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False
