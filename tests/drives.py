"""Opening drives in tests: on a memory upstream, without FUSE, and letting go of them as a crash does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from backend.upstream import Upstream
from cache.drive import Drive
from cache.opening import DriveOptions, LocalState, Secrets, open_drive
from cache.publisher import Intervals

DRIVE_ID = bytes(range(16))
SECRETS = Secrets(*(bytes([number]) * 32 for number in range(1, 6)))
QUIET = DriveOptions(intervals=Intervals(commit=3600, version=3600))
"""Nothing is published by itself, so that a test decides when."""


@asynccontextmanager
async def opened(
    folder: Path,
    upstream: Upstream,
    options: DriveOptions = QUIET,
    *,
    crash: bool = False,
    read_only: bool = False,
) -> AsyncIterator[Drive]:
    """A running drive. With `crash`, what a SIGKILL would lose is lost at the end."""
    local = LocalState(folder)
    try:
        drive = await open_drive(local, upstream, DRIVE_ID, SECRETS, replace(options, read_only=read_only))
    except BaseException:
        local.close()
        raise
    async with trio.open_nursery() as nursery:
        await nursery.start(drive.run)
        yield drive
        nursery.cancel_scope.cancel()
    if crash:
        local.close()
    else:
        await drive.close()
