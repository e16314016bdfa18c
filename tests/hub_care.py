"""What looks after a hub, in tests: a drive with blocks, and the tables of a hub that runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backend.findings import Findings
from backend.hub import Database, HubCheck, PackTable
from backend.hub.directory import Device
from backend.hub.packing import DriveNumber
from backend.upstream import BlockId, SealedBlock
from tests.hub_server import RunningHub


def drive_with_blocks(running: RunningHub, count: int = 3) -> tuple[DriveNumber, list[SealedBlock]]:
    """A new drive that has so many blocks of random bytes, in one pack, all of whose fragments are stored."""
    uuid, token = running.new_drive()
    blocks = [SealedBlock(BlockId(os.urandom(32)), os.urandom(5000)) for _ in range(count)]

    async def put() -> DriveNumber:
        device: Device = await running.hub.directory.device(token)
        drive = (await running.hub.directory.drives(device, [uuid]))[uuid]
        await running.hub.blocks.put(drive, blocks)
        await running.hub.blocks.store(drive).wait_for_writes()
        return drive

    return running.call(put()), blocks


@asynccontextmanager
async def database_of(running: RunningHub) -> AsyncIterator[Database]:
    """A pool of connections of the caller's own."""
    database = Database(running.conninfo, size=2)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def check(running: RunningHub, *, mend: bool = False, data: bool = False) -> list[str]:
    """The findings of a check of the hub."""

    async def run() -> list[str]:
        findings = Findings()
        async with database_of(running) as database:
            packs = PackTable(database)
            await HubCheck(packs, running.hub.blocks, running.nodes, findings, mend=mend, data=data).run()
        return [str(each) for each in findings.all]

    return running.call(run())
