"""A drive that is mounted already, mounted at a second place: root sees it there too, as of a disk.

The kernel gives a disk that is mounted twice one file system with two mount points. A drive's process serves
one FUSE mount, which the second mount point shows (mount(2), MS_BIND). Each place is unmounted by itself, and
the drive ends with the last.
"""

from __future__ import annotations

import os
from typing import Final

from backend.errors import LeaseHeldError
from tools import mount_options, remount
from tools.control_client import ControlClient
from tools.host import mounts
from tools.host.mounts import Mount
from tools.mount_options import MountOptions

_WHOLE: Final = "/"


def place_of(folder: str) -> Mount | None:
    """The mount that shows the whole drive in `folder`, an absolute path, and answers; None without one."""
    whole = (mount for mount in mounts.drives() if mount.source == folder and mount.root == _WHOLE)
    return next((mount for mount in whole if not mounts.is_dead(mount.mountpoint)), None)


def show(mounted: Mount, mountpoint: str, options: MountOptions) -> None:
    """Have `mountpoint` show the drive that is mounted with the same options. `LeaseHeldError`: it has
    others, or not root asks. `ToolError`."""
    there = f"{mounted.source}: already mounted at {mounted.mountpoint}"
    if os.geteuid() != 0:
        raise LeaseHeldError(f"{there}; only root can show it at a second place")
    running = remount.option_lists_of(ControlClient.of_mount(mounted.mountpoint).process_id())
    if mount_options.parse(running, sloppy=True) != options:
        raise LeaseHeldError(
            f"{there} with other options: a second place has the same ones, or is made by "
            f"mount --bind {mounted.mountpoint} {mountpoint}"
        )
    mounts.show_also(mounted.mountpoint, mountpoint)
