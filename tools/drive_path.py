"""A path in a mounted drive, as commands are given it: which mount it lies in, and where in the drive.

The path need not exist any more: deleted things are what one asks the past for.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from urllib.parse import quote, unquote_to_bytes

from tools.control_client import ControlClient, NotMountedError
from tools.errors import ToolError
from tools.host import mounts

_BY_NAME = "by-name"


class DrivePath:
    """`mountpoint`, and the path `inside`, percent-encoded. `NotMountedError`."""

    def __init__(self, path: str) -> None:
        self.path = path
        # The last part may be a symbolic link, and is then meant itself.
        parent, name = os.path.split(os.path.abspath(path))
        whole = os.path.join(os.path.realpath(parent), name)
        points = [mount.mountpoint for mount in mounts.drives()]
        inside = [point for point in points if os.path.commonpath([point, whole]) == point]
        if not inside:
            raise NotMountedError(f"{path}: lies in no mounted drivefs drive")
        self.mountpoint = max(inside, key=len)
        self._relative = whole.removeprefix(self.mountpoint).strip("/")
        self.inside = quote(os.fsencode(self._relative))

    def client(self) -> ControlClient:
        """That of the mount. `ToolError`, which names the live path, if this one lies in the hidden directory
        of the past: who is asked about a path is asked about all its time."""
        client = ControlClient.of_mount(self.mountpoint)
        hidden = os.fsdecode(unquote_to_bytes(client.status().versions_dir))
        parts = PurePath(self._relative).parts
        if hidden and hidden in parts:
            before = parts[: parts.index(hidden)]
            raise ToolError(self._of_the_past(before, parts[len(before) + 1 :]))
        return client

    def _of_the_past(self, folder: tuple[str, ...], rest: tuple[str, ...]) -> str:
        """`rest` is TIME/PATH, by-name/FILE/VERSION, or the beginning of one of them."""
        moment, inner = rest[:1], rest[1:]
        if moment == (_BY_NAME,):
            moment, inner = tuple(part.partition(".")[0] for part in rest[2:3]), rest[1:2]
        live = os.path.join(self.mountpoint, *folder, *inner)
        when = f" with the time {moment[0]}" if moment else ""
        return f"{self.path}: shows the past; name {live}{when}"
