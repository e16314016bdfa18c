"""A mount of a drive that another device writes too, in one process: they have one upstream in memory.

    python -m tests.mount.shared_mount FOLDER MOUNTPOINT INTERVAL [asking]

With `asking` the mount has coherence=open, and hears of the other device's commits only when it asks.

The other device does what it reads on stdin: a line of JSON, a list of edits `[call, arguments...]` (methods
of `Peer`, bytes in base64), which are published together. It answers with a line: the results, and when the
newest commits of both were appended (`time.monotonic_ns`).
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from typing import Any, Final

import trio

from backend.upstream import Commit, Head
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import NoEntryError
from cache.namespace.operations import ROOT_INODE
from mountfs.session import Session
from mountfs.session_options import SessionOptions
from tests.drives import content
from tests.memory_hub import HubSession, MemoryHub
from tests.sync.drives import SMALL, Hub

JOURNAL: Final = 256 << 20
OWNER: Final = (os.geteuid(), os.getegid())
"""Of what the other device makes: whoever runs the tests may open it."""


class TimedHub(MemoryHub):
    """It notes when a commit was appended, by its device."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: dict[int, int] = {}

    async def append(self, commit: Commit, expected: Head) -> Head:
        head = await super().append(commit, expected)
        self.appended[commit.device] = time.monotonic_ns()
        return head


class Peer:
    """The other device: calls on paths from the root, as `a/b`."""

    def __init__(self, drive: Drive, mounted: Drive, hub: TimedHub) -> None:
        self._drive = drive
        self._mounted = mounted
        self._hub = hub

    def _place(self, path: str) -> tuple[int, bytes]:
        *folders, name = path.split("/")
        parent = ROOT_INODE
        for folder in folders:
            parent = self._drive.lookup(parent, os.fsencode(folder)).inode
        return parent, os.fsencode(name)

    def _inode(self, path: str) -> int:
        return self._drive.lookup(*self._place(path)).inode

    async def mkdir(self, path: str) -> None:
        await self._drive.make_node(*self._place(path), S_IFDIR | 0o755, 0, *OWNER)

    async def write(self, path: str, data: str) -> None:
        """The whole content, in place; of a new file if there is none."""
        try:
            inode = self._inode(path)
        except NoEntryError:
            inode = (await self._drive.make_node(*self._place(path), S_IFREG | 0o644, 0, *OWNER)).inode
        await self._drive.set_attributes(inode, AttributeChange(size=0))
        await self._drive.write(inode, 0, base64.b64decode(data))
        await self._drive.settle(inode)

    async def save(self, path: str, data: str) -> None:
        """The same by a new file that is renamed over."""
        await self.write(f"{path}.new", data)
        await self.rename(f"{path}.new", path)

    async def rename(self, path: str, to: str) -> None:
        await self._drive.rename(
            *self._place(path), *self._place(to), no_replace=False, exchange=False, whiteout=None
        )

    async def unlink(self, path: str) -> None:
        await self._drive.unlink(*self._place(path))

    async def rmdir(self, path: str) -> None:
        await self._drive.remove_directory(*self._place(path))

    async def link(self, path: str, to: str) -> None:
        await self._drive.link(self._inode(path), *self._place(to))

    async def chmod(self, path: str, mode: int) -> None:
        await self._drive.set_attributes(self._inode(path), AttributeChange(mode=mode))

    async def utime(self, path: str, mtime_ns: int) -> None:
        await self._drive.set_attributes(self._inode(path), AttributeChange(mtime_ns=mtime_ns))

    async def wait_for(self, path: str, size: int) -> None:
        """Until the file is there, so long."""

        def is_there() -> bool:
            try:
                return self._drive.size(self._inode(path)) == size
            except NoEntryError:
                return False

        await self._until(is_there)

    async def wait_for_names(self, names: list[str]) -> None:
        """Until the root has these and no others."""

        def are_there() -> bool:
            found = self._drive.names(ROOT_INODE, 0, 1 << 40)
            return sorted(os.fsdecode(name) for name, _ in found) == names

        await self._until(are_there)

    async def wait_for_mount(self) -> None:
        """Until the mount's drive has what this device has published; the kernel may not have heard of it."""
        while self._mounted.ledger.head.number < self._drive.ledger.head.number:
            await trio.sleep(0.001)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._drive.upstream.log.wait_for_change(self._drive.ledger.head.number)
            await self._drive.publisher.follow()

    async def read(self, path: str) -> str:
        return base64.b64encode(await content(self._drive, self._inode(path))).decode()

    async def names(self, path: str) -> list[str]:
        inode = self._inode(path) if path else ROOT_INODE
        return sorted(os.fsdecode(name) for name, _ in self._drive.names(inode, 0, 1 << 40))

    async def hold(self) -> None:
        """No commit of the mount is taken before the next edits are published."""
        self._hub.held.setdefault(1, trio.Event())

    async def perform(self, edits: list[list[Any]]) -> dict[str, Any]:
        """All edits, published together: before anything that the mount has not published by then, unless
        that is waited for."""
        hub, calls = self._hub, {edit[0] for edit in edits}
        if not calls & {"wait_for", "wait_for_names"}:
            await self.hold()
        await self._drive.publisher.follow()
        results = [await getattr(self, call)(*arguments) for call, *arguments in edits]
        await self._drive.sync()
        if "hold" not in calls and 1 in hub.held:
            hub.held.pop(1).set()
        theirs, ours = (hub.appended.get(device, 0) for device in (2, 1))
        return {"results": results, "appended": theirs, "ours": ours}


class NoControl:
    """In the place of the control server."""

    path = Path("/nonexistent")

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    async def serve_device(self, device: int, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()


async def obey(peer: Peer) -> None:
    """Do what stdin says, until it is closed."""
    stdin = trio.lowlevel.FdStream(os.dup(0))
    buffered = b""
    async for chunk in stdin:
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            print(json.dumps(await peer.perform(json.loads(line))), flush=True)


async def never(self: HubSession, number: int) -> None:
    """In the place of `wait_for_change`."""
    await trio.sleep_forever()


async def serve(folder: Path, mountpoint: Path, interval: float, *, is_asking: bool) -> None:
    """Until it is unmounted."""
    if is_asking:
        HubSession.wait_for_change = never  # type: ignore[method-assign]
    upstream = TimedHub()
    hub = Hub(folder, upstream)
    theirs = replace(SMALL, journal_size=JOURNAL)
    ours = replace(theirs, intervals=replace(SMALL.intervals, shared=interval))
    async with hub.device(1, options=ours) as drive, hub.device(2, options=theirs) as other:
        options = SessionOptions(
            source="shared",
            allow_other=os.geteuid() == 0,
            access_lists=False,
            coherent_opens=is_asking,
        )
        session = Session(drive, mountpoint, options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, Peer(other, drive, upstream))
            await session.serve(NoControl(), partial(print, json.dumps("ready"), flush=True))
            nursery.cancel_scope.cancel()


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    folder, mountpoint, interval, *asking = sys.argv[1:]
    trio.run(partial(serve, is_asking=bool(asking)), Path(folder), Path(mountpoint), float(interval))


if __name__ == "__main__":
    main()
