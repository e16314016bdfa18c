"""What looks after a hub, in tests: a drive with blocks, and the tables of a hub that runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from backend.findings import Findings
from backend.hub import Database, HubCheck, PackTable, StrayPackTable
from backend.hub.directory import Device
from backend.hub.packing import DriveNumber
from backend.upstream import BlockId, SealedBlock
from tests.hub_server import RunningHub

RETENTION = 3600.0
"""Seconds for which a check keeps a pack that the database does not know."""


def drive_with_blocks(running: RunningHub, count: int = 3) -> tuple[DriveNumber, list[SealedBlock]]:
    """A new drive that has so many blocks of random bytes, in one pack, all of whose fragments are stored."""
    drive = drive_of(running)
    blocks = [SealedBlock(BlockId(os.urandom(32)), os.urandom(5000)) for _ in range(count)]

    async def put() -> None:
        await running.hub.blocks.put(drive, blocks)
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(put())
    return drive, blocks


def drive_of(running: RunningHub) -> DriveNumber:
    """A new drive, which is empty."""
    uuid, token = running.new_drive()

    async def find() -> DriveNumber:
        device: Device = await running.hub.directory.device(token)
        return (await running.hub.directory.drives(device, [uuid]))[uuid]

    return running.call(find())


def is_waiting_for_a_lock(running: RunningHub) -> bool:
    """Whether a connection to the hub's database is."""
    with psycopg.connect(running.conninfo) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(found.fetchall())


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
            packs, strays = PackTable(database), StrayPackTable(database, RETENTION)
            blocks, nodes = running.hub.blocks, running.nodes
            await HubCheck(packs, blocks, nodes, strays, findings, mend=mend, data=data).run()
        return [str(each) for each in findings.all]

    return running.call(run())
