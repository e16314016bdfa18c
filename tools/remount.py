"""`mount -o remount,...`: changes the options that the kernel keeps of a mount; the process behind it goes
on.

These are `ro` and `rw`, `nosuid`, `nodev`, `noexec` and the like. All others were decided when the drive was
mounted. A drive that was mounted with `ro` has no lease, so it cannot become writable.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final

from backend.errors import UsageError
from tools import mount_options
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.host import mounts
from tools.terminal import complain

WORD: Final = "remount"

_MS_REMOUNT: Final = 32
_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
"""mount(2); the words are those of /proc/self/mountinfo too."""
_CHANGES: Final = frozenset(("ro", "nosuid", "nodev", "noexec"))
_OPPOSITES: Final = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_OF_THE_KERNEL: Final = frozenset(("user_id", "group_id", "rootmode", "fd", "max_read", "blksize"))
"""Options that the kernel shows of every FUSE mount, and that mount(8) hands on."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def is_asked(option_lists: Iterable[str]) -> bool:
    """Whether these `-o` arguments are those of a remount."""
    return any(WORD in mount_options.split(text) for text in option_lists)


def remount(mountpoint: str, option_lists: Iterable[str], *, sloppy: bool, fake: bool) -> None:
    """Change the mount at `mountpoint`. Options that a remount cannot change are named on stderr if they are
    others than the mount has, and stay as they are. `UsageError` for one that there is not, `ToolError` with
    what to do if it cannot be done."""
    options = [option for text in option_lists for option in mount_options.split(text)]
    options = [option for option in options if option.partition("=")[0] not in {WORD, *_OF_THE_KERNEL}]
    mount_options.parse(options, sloppy=sloppy)
    mount = mounts.find(mountpoint)
    if mount is None or mount.type != mounts.FILE_SYSTEM_TYPE:
        raise ToolError(f"{mountpoint}: no drivefs drive is mounted here, so there is nothing to remount")
    words = changed(mount.options, options)
    if "ro" not in words and ControlClient.of_mount(mountpoint).status().read_only:
        raise ToolError(
            f"{mountpoint}: was mounted to look only, which a remount cannot change: unmount it, and mount "
            "it again"
        )
    if os.geteuid() != 0:
        raise ToolError(
            f"{mountpoint}: only root can remount: unmount it, and mount it again with the other options"
        )
    running = option_lists_of(ControlClient.of_mount(mountpoint).process_id())
    staying = [option.partition("=")[0] for option in options if _stays(option, running)]
    if staying:
        complain(f"mount.drivefs: as before until it is unmounted and mounted again: {', '.join(staying)}")
    if not fake:
        _remount(mountpoint, words)


def changed(before: frozenset[str], options: Iterable[str]) -> frozenset[str]:
    """The flags, by their words, of a mount that had `before`, when `options` are asked for one after
    another."""
    words = set(before & _FLAGS.keys())
    for option in options:
        words.discard(_OPPOSITES.get(option, ""))
        words |= {option} & _CHANGES
    return frozenset(words)


def option_lists_of(process: int) -> list[str]:
    """The `-o` arguments of the mount.drivefs that became this process (proc(5), cmdline); a line of fstab
    brings the same to every remount."""
    words = [os.fsdecode(word) for word in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")]
    apart = [after for word, after in pairwise(words) if word == "-o"]
    return apart + [word.removeprefix("-o") for word in words if word.startswith("-o") and word != "-o"]


def _stays(option: str, running: list[str]) -> bool:
    """Whether it is looked at only when a drive is mounted, and would have made another mount of this one."""
    if not mount_options.is_of_drivefs(option):
        return False
    before = mount_options.parse(running, sloppy=True)
    try:
        return mount_options.parse([*running, f'"{option}"'], sloppy=True) != before
    except UsageError:  # another source of the secret
        return True


def _remount(mountpoint: str, words: frozenset[str]) -> None:
    flags = _MS_REMOUNT | sum(_FLAGS[word] for word in words)
    if _libc.mount(b"none", os.fsencode(mountpoint), None, ctypes.c_ulong(flags), None) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        raise ToolError(f"{mountpoint}: cannot be remounted, as files in it are open for writing: close them")
    raise ToolError(f"{mountpoint}: cannot be remounted: {os.strerror(number)}")
