"""A drive that is mounted already, mounted at a second place: root sees it there too, as of a disk.

The kernel gives a disk that is mounted twice one file system with two mount points. A drive's process serves
one FUSE mount, which the second mount point shows (mount(2), MS_BIND). Each place is unmounted by itself, and
the drive ends with the last.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Final

from backend.errors import LeaseHeldError
from backend.system import ask
from tools import mount_options, remount
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.host import mounts
from tools.host.mounts import Mount
from tools.mount_options import MountOptions

_WHOLE: Final = "/"

log = logging.getLogger(__name__)


def place_of(source: str, state: Path | None = None) -> Mount | None:
    """The mount that shows the whole drive `source` as it is now, and answers; None without one. `state`:
    only one with that state folder counts. A drive at a hub may be mounted with others, each of which is a
    device of its own."""
    whole = [mount for mount in mounts.drives() if mount.source == source and mount.root == _WHOLE]
    # One whose process was stopped never says whether it is dead.
    dead = ask({mount: partial(mounts.is_dead, mount.mountpoint) for mount in whole})
    alive = (mount for mount in whole if dead.get(mount) is False)
    present = (mount for mount in alive if shows_the_present(mount))
    return next((mount for mount in present if state is None or uses_state(mount, state)), None)


def shows_the_present(mount: Mount) -> bool:
    """Whether it is no mount with `asof`, which stands beside any other. One that has just ended, or does not
    answer, is no place to show: if it holds the drive still, its lock refuses another process."""
    try:
        return not _options_of(mount).asof
    except (ToolError, FileNotFoundError, ProcessLookupError) as error:
        log.info("%s does not say what it shows: %s", mount.mountpoint, error)
        return False


def uses_state(mount: Mount, state: Path) -> bool:
    """Whether its process has the drive open with this state folder. That of another user does not say."""
    try:
        return ControlClient.of_mount(mount.mountpoint).status().folders.get("state") == str(state)
    except ToolError as error:
        log.info("%s does not say which state it uses: %s", mount.mountpoint, error)
        return False


def _options_of(mount: Mount) -> MountOptions:
    running = remount.option_lists_of(ControlClient.of_mount(mount.mountpoint).process_id())
    return mount_options.parse(running, sloppy=True)


def show(mounted: Mount, mountpoint: str, options: MountOptions) -> None:
    """Have `mountpoint` show the drive that is mounted with the same options. `LeaseHeldError`: it has
    others, or not root asks. `ToolError`."""
    there = f"{mounted.source}: already mounted at {mounted.mountpoint}"
    if os.geteuid() != 0:
        raise LeaseHeldError(f"{there}; only root can show it at a second place")
    if _options_of(mounted) != options:
        raise LeaseHeldError(
            f"{there} with other options: a second place has the same ones, or is made by "
            f"mount --bind {mounted.mountpoint} {mountpoint}"
        )
    mounts.show_also(mounted.mountpoint, mountpoint)
