"""The options of a session, and the words of mount.fuse3(8) for them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cache.defaults import VERSIONS_NAME


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a mount. `source` is shown by mount(8); `access_times` False is noatime. `versions_name`
    is the hidden directory's (None: there is none). With `as_of` (a name of a moment, `cache.past_names`) the
    mount shows the drive then, and is nosuid: a set-ID bit that was taken away since means nothing.
    `access_lists`: with POSIX ACLs. `coherent_opens`: an opening shows what others published before it."""

    source: str
    read_only: bool = False
    allow_other: bool = False
    suid: bool = True
    dev: bool = True
    exec: bool = True
    access_times: bool = True
    access_lists: bool = True
    coherent_opens: bool = False
    versions_name: bytes | None = VERSIONS_NAME.encode()
    as_of: str = ""

    def words(self) -> set[str]:
        """The `-o` words of mount.fuse3(8). Only root may mount with `suid` and `dev`: without it
        fusermount3 forces `nosuid` and `nodev`."""
        words = {"default_permissions", "subtype=drivefs", "fsname=" + _escaped(self.source)}
        suid = self.suid and not self.as_of
        chosen = {
            "ro": self.read_only,
            "allow_other": self.allow_other,
            "suid" if suid else "nosuid": os.geteuid() == 0 or not suid,
            "dev" if self.dev else "nodev": os.geteuid() == 0 or not self.dev,
            "noexec": not self.exec,
            "noatime": not self.access_times,
        }
        return words | {word for word, wanted in chosen.items() if wanted}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")
