"""`python -m tests.crash.hub_round HUB`: a round of a hub's housekeeping, in a process that may be killed."""

from __future__ import annotations

import sys

from backend.failpoints import OF_PROCESS
from backend.hub import Housekeeping
from tools.hub_server.opening import HubFolder, opened, run


async def one_round(path: str) -> None:
    """Of the hub in that folder."""
    folder = HubFolder.load(path)
    async with opened(folder) as parts:
        retention = folder.file.limits.retention_seconds
        await Housekeeping(parts.database, parts.packs, parts.blocks, frozenset, retention).round()


if __name__ == "__main__":
    OF_PROCESS.arm_from_environment()
    run(one_round(sys.argv[1]))
