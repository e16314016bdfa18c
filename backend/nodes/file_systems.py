"""Whether a folder is on a file system of this machine alone.

A lock of flock(2) and a rename hold among all who use the folder there. On one that other machines serve
(NFS, SMB, most of FUSE) two machines may each be told that they have the lock, or see files as they were a
moment ago; so a node there keeps fragments, and has no vote. Blocks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

_SHARED: Final = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|ceph|9p|lustre|gpfs|beegfs|glusterfs|pvfs2|orangefs|fuse(\..*)?"
)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def is_shared(folder: str) -> bool:
    """Whether other machines may use the file system of `folder` too. `OSError`."""
    return _SHARED.fullmatch(kind_of(os.path.realpath(folder), mounts_in("/proc/self/mountinfo"))) is not None


def mounts_in(path: str) -> list[str]:
    """The lines of that file. In names the kernel escapes newlines, and no other separators."""
    with open(path, encoding=None, errors="surrogateescape", newline="\n") as file:
        return list(file)


def kind_of(path: str, mounts: Iterable[str]) -> str:
    """The type of the file system that a real path is on, by the lines of proc_pid_mountinfo(5)."""
    found, longest = "", -1
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        covers = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts at one point the later one covers the other.
        if covers and len(point) >= longest:
            found, longest = after.split(" ", 1)[0], len(point)
    return found
