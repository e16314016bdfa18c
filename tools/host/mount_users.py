"""The processes that keep a mount busy, as far as this user may see: what /proc (proc(5)) says of other
processes.

Only the links' names are read: nothing here touches the mount, which may hang or refuse to be looked into.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

MOST: Final = 3
"""So many are named: enough to know where to look."""


def users(mountpoint: str) -> list[str]:
    """`NAME (PROCESS)` of up to `MOST` other processes that are in the mount or have something open there."""
    found = []
    for process in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if process != os.getpid() and any(_lies_in(place, mountpoint) for place in _places(process)):
            found.append(f"{_name(process)} ({process})")
        if len(found) == MOST:
            break
    return found


def why_busy(mountpoint: str) -> str:
    """The advice about it, in half a line."""
    who = ", ".join(users(mountpoint)) or "a shell or program, maybe another user's,"
    return f"{who} is in it or has a file open there: leave it (cd) or end it; -l detaches now"


def _places(process: int) -> Iterator[str]:
    """The paths where it is and that it has open. Nothing of a process that has ended or is somebody
    else's."""
    folder = f"/proc/{process}"
    links = [f"{folder}/{name}" for name in ("cwd", "root", "exe")]
    with suppress(OSError):
        links += [f"{folder}/fd/{number}" for number in os.listdir(f"{folder}/fd")]
    for link in links:
        with suppress(OSError):
            yield os.readlink(link)


def _lies_in(place: str, mountpoint: str) -> bool:
    return place == mountpoint or place.startswith(mountpoint.rstrip("/") + "/")


def _name(process: int) -> str:
    try:
        return os.fsdecode(Path(f"/proc/{process}/comm").read_bytes().rstrip(b"\n"))
    except OSError:
        return "?"  # it has ended meanwhile
