"""Devices that write one drive, in one process: a state folder each, one upstream in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from backend.system import Environment
from cache.disk import BlockFolder, CachedBlocks, DiskCache
from cache.drive import Circumstances, Drive
from cache.local.local_state import LocalState
from cache.opening import DriveOptions, open_drive
from tests.drives import DRIVE_ID, KEYS, QUIET
from tests.memory_hub import Line, MemoryHub

SMALL: Final = replace(QUIET, journal_size=1 << 20)
"""Segments of a journal that are read in a moment."""


@dataclass
class Hub:
    """The upstream of all devices; each opening is a session of its own."""

    folder: Path
    upstream: MemoryHub = field(default_factory=MemoryHub)

    @asynccontextmanager
    async def device(
        self,
        number: int,
        *,
        crash: bool = False,
        environment: Environment | None = None,
        options: DriveOptions = SMALL,
        line: Line | None = None,
        disk_cache: Path | None = None,
        read_only: bool = False,
    ) -> AsyncIterator[Drive]:
        """The drive of a device, running. With `crash` what a SIGKILL would lose is lost at the end.
        `disk_cache`: the folder of its sealed blocks."""
        local = LocalState(self.folder / str(number), environment or Environment())
        try:
            options = replace(options, is_shared=True, read_only=read_only, host=f"dev{number}")
            upstream = self.upstream.session(line)
            if disk_cache is not None:
                used, kept = (BlockFolder(disk_cache / name, 1 << 30, 10_000) for name in ("used", "kept"))
                upstream.cached = CachedBlocks(upstream, DiskCache(used, kept))
            circumstances = Circumstances(disk_cache=upstream.cached)
            drive = await open_drive(local, upstream, DRIVE_ID, KEYS, options, circumstances)
            async with trio.open_nursery() as nursery:
                if upstream.cached is not None:
                    nursery.start_soon(upstream.cached.run)
                await nursery.start(drive.run)
                yield drive
                nursery.cancel_scope.cancel()
            if not crash:
                await drive.close()
        finally:
            local.close()
