"""Calls that look after a running drive: check it, scrub it, repair it.

The check changes nothing. It sees the namespace as it was last saved, a moment ago. It runs in a thread
with a connection of its own, so that the drive goes on working.
"""

from __future__ import annotations

from typing import Any, Final

import trio

from backend.errors import ReadOnlyError
from backend.health import Repaired, ScrubStatus
from backend.upstream import BlockId
from cache.drive import Drive
from cache.health import Health
from cache.messages import CHECK, REPAIR, SCRUB, Checked, Nothing, ScrubWanted, Service
from cache.namespace import check_namespace
from cache.retention import lost_ranges, named_blocks

_BATCH: Final = 1000
_TOLD: Final = 100


def health_services(drive: Drive) -> list[Service[Any, Any]]:
    """Those of `cache.messages.health`."""

    async def check(_: Nothing) -> Checked:
        return Checked(tuple(await check_running(drive)))

    async def scrub(wanted: ScrubWanted) -> ScrubStatus:
        return await _health(drive).scrub(wait=wanted.wait)

    async def repair(_: Nothing) -> Repaired:
        return await _health(drive).repair()

    return [Service(CHECK, check), Service(SCRUB, scrub), Service(REPAIR, repair)]


async def check_running(drive: Drive) -> list[str]:
    """The faults, one line each: the namespace's rules, blocks that versions name, the fragments. A
    version whose content is still on its way to the nodes is no fault."""
    if not drive.read_only:
        drive.ledger.save()
    path = drive.ledger.namespace.path
    breaches = await trio.to_thread.run_sync(lambda: check_namespace(path, published=False))
    problems = [f"namespace: {breach.text} (inode {breach.inode})" for breach in breaches]
    problems += await _missing(drive, path)
    return (problems + await _health(drive).check_fragments())[:_TOLD]


async def _missing(drive: Drive, path: str) -> list[str]:
    named = [BlockId(block) for block in await trio.to_thread.run_sync(named_blocks, path)]
    missing: set[bytes] = set()
    for start in range(0, len(named), _BATCH):
        part = named[start : start + _BATCH]
        missing |= set(part) - set(await drive.stored_sizes(part))
    if not missing:
        return []
    lost = await trio.to_thread.run_sync(lost_ranges, path, missing)
    return [f"{each.path}: {each.length} bytes at {each.offset} are on no node" for each in lost]


def _health(drive: Drive) -> Health:
    if drive.health is None:
        raise ReadOnlyError("the store's health cannot be asked for here")
    return drive.health
