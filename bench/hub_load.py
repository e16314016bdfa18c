"""`python -m bench.hub_load [--only LOAD,...]`: what a hub's work costs, load by load.

`drivefs-hub serve` in a process of its own (`bench.hub_process`), PostgreSQL that syncs, nodes in folders.
For each load: operations a second, and for each operation processor time of the hub and of PostgreSQL,
statements, bytes of write-ahead log, growth of the tables. The load generator takes its part of the
processors, so rates are a lower bound; processor time for an operation is the figure that holds elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import psycopg

from backend.upstream import BlockId
from bench.hub_client import ADDED, Call, Device, enrol, new_blocks, together
from bench.hub_process import MeasuredHub, measured_hub

KIB: Final = 1 << 10
SIZES: Final = tuple(
    size * KIB
    for size, count in ((4, 30), (16, 30), (64, 20), (256, 12), (1024, 6), (4000, 2))
    for _ in range(count)
)
"""Sealed bytes of files as people have them: most are small, most bytes are in large ones (mean 189 KiB)."""
AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class OperationCost:
    """Of one operation: milliseconds of processor time, statements, bytes. `rate`: operations a second."""

    load: str
    operations: int
    rate: float
    hub_ms: float
    database_ms: float
    statements: float
    wal_bytes: float
    table_bytes: float

    def __str__(self) -> str:
        return (
            f"{self.load:28s} {self.operations:7,d} x {self.rate:8,.0f} /s  hub {self.hub_ms:7.3f} ms"
            f"  database {self.database_ms:7.3f} ms  {self.statements:5.1f} statements"
            f"  WAL {self.wal_bytes:8,.0f}  tables {self.table_bytes:8,.0f} bytes"
        )


@dataclass(frozen=True, slots=True)
class Idle:
    """What devices cost that wait: memory of the hub's process, milliseconds of processor time a second."""

    devices: int
    bytes_each: float
    hub_ms_a_second: float
    database_ms_a_second: float

    def __str__(self) -> str:
        return (
            f"{self.devices:,d} idle polls: {self.bytes_each / KIB:.1f} KiB each; for all of them"
            f" hub {self.hub_ms_a_second:.1f} ms, database {self.database_ms_a_second:.1f} ms of a second"
        )


class Meter:
    """What a hub has used so far, and what it used since."""

    def __init__(self, hub: MeasuredHub) -> None:
        self._hub = hub
        self._began = time.perf_counter()
        self._figures = self._read()

    def cost(self, load: str, operations: int) -> OperationCost:
        """Of each of so many operations since this was made."""
        seconds = time.perf_counter() - self._began
        used = [now - then for now, then in zip(self._read(), self._figures, strict=True)]
        hub, database, statements, wal, tables = (each / operations for each in used)
        rate = operations / seconds
        return OperationCost(load, operations, rate, hub * 1000, database * 1000, statements, wal, tables)

    def _read(self) -> tuple[float, ...]:
        return (self._hub.processor_seconds(), self._hub.database_seconds(), *_database(self._hub.conninfo))


def _database(conninfo: str) -> tuple[float, ...]:
    """Statements, bytes of write-ahead log, bytes of tables and indexes."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            "SELECT (SELECT sum(calls) FROM pg_stat_statements),"
            " pg_current_wal_lsn() - '0/0'::pg_lsn, pg_database_size(current_database())"
        ).fetchone()
    assert row is not None
    return tuple(float(each or 0) for each in row)


async def appends(hub: MeasuredHub, writers: int, commits: int, added: int = ADDED) -> OperationCost:
    """So many devices publish commits, each as fast as it can; the blocks that a commit adds are there."""
    async with devices(hub, writers) as found:
        calls: list[list[Call]] = []
        for device in found:
            ids = _stored_ids(hub, device.uuid, commits * added)
            parts = [ids[at * added : (at + 1) * added] for at in range(commits)]
            calls.append([partial(device.append, part) for part in parts])
        return await measured(hub, f"append, {writers} writers", calls)


def _stored_ids(hub: MeasuredHub, uuid: bytes, count: int) -> list[BlockId]:
    """Blocks that the database knows, though no node has them: an append does not look there."""
    ids = [block.id for block in new_blocks([1] * count)]
    with psycopg.connect(hub.conninfo) as connection:
        connection.execute(
            "INSERT INTO block (drive, id) SELECT d.id, unnest(%s::bytea[]) FROM drive d WHERE d.uuid = %s",
            (ids, uuid),
        )
    return ids


async def saves(hub: MeasuredHub, each: int, writers: int = AT_ONCE) -> list[OperationCost]:
    """Files stored as a mount stores them, so many by each device; then the log listed."""
    random = Random(1)
    async with devices(hub, writers) as found:
        files = [[partial(device.save, [random.choice(SIZES)]) for _ in range(each)] for device in found]
        return [
            await measured(hub, "save of a file", files),
            await measured(
                hub, f"log of {each} commits", [[partial(device.log, 0)] * 20 for device in found]
            ),
        ]


async def packs(hub: MeasuredHub, count: int, each: int) -> OperationCost:
    """Requests with `count` small blocks."""
    async with devices(hub, AT_ONCE) as found:
        calls = [
            [partial(device.put, new_blocks([4 * KIB] * count)) for _ in range(each)] for device in found
        ]
        return await measured(hub, f"put, {count} x 4 KiB", calls)


async def blocks(hub: MeasuredHub, size: int, each: int) -> list[OperationCost]:
    """Blocks of that size, so many of each device: given one by one, asked for, read."""
    async with devices(hub, AT_ONCE) as found:
        given = [(device, new_blocks([size] * each)) for device in found]
        loads: dict[str, list[list[Call]]] = {
            "put": [[partial(device.put, [block]) for block in its] for device, its in given],
            "missing": [[partial(device.missing, [block.id]) for block in its] for device, its in given],
            "read": [[partial(device.read, block.id) for block in its] for device, its in given],
        }
        return [await measured(hub, f"{name}, {size // KIB} KiB", calls) for name, calls in loads.items()]


async def polls(hub: MeasuredHub, count: int, seconds: float = 5.0) -> tuple[Idle, OperationCost]:
    """So many devices that wait; then a storm: all of them lose their connection, and come back at once."""
    before = hub.memory()
    async with devices(hub, count) as found:
        async with waiting(hub, found):
            memory, began, at = hub.memory() - before, time.perf_counter(), _processors(hub)
            await asyncio.sleep(seconds)  # what is measured is that nothing happens
            took = time.perf_counter() - began
            used = [(now - then) * 1000 / took for now, then in zip(_processors(hub), at, strict=True)]
        for device in found:
            device.connection.drop()
        meter = Meter(hub)
        async with waiting(hub, found):
            storm = meter.cost(f"reconnect, {count} at once", count)
    return Idle(count, memory / count, *used), storm


@asynccontextmanager
async def waiting(hub: MeasuredHub, found: Sequence[Device]) -> AsyncIterator[None]:
    """All of them wait, and the hub knows it."""

    async def keep_waiting(device: Device) -> None:
        while True:
            await device.poll(120)

    async with asyncio.TaskGroup() as group:  # a poll that fails ends all
        polls = [group.create_task(keep_waiting(device)) for device in found]
        try:
            while await asyncio.to_thread(hub.polls) < len(found):
                await asyncio.sleep(0.5)
            yield
        finally:
            for poll in polls:
                poll.cancel()


async def renewals(hub: MeasuredHub, count: int, each: int) -> OperationCost:
    """Polls that end at once, of connections that stay open."""
    async with devices(hub, count) as found:
        await together([[partial(device.poll, 0)] for device in found])
        return await measured(
            hub, "renewal of a poll", [[partial(device.poll, 0)] * each for device in found]
        )


def _processors(hub: MeasuredHub) -> tuple[float, float]:
    return hub.processor_seconds(), hub.database_seconds()


@asynccontextmanager
async def devices(hub: MeasuredHub, count: int) -> AsyncIterator[list[Device]]:
    """New devices, each with a drive of its own."""
    found = enrol(hub.conninfo, hub.port, count)
    try:
        yield found
    finally:
        for device in found:
            device.connection.drop()


async def measured(hub: MeasuredHub, load: str, calls: Sequence[Sequence[Call]]) -> OperationCost:
    """The calls of each device, one after the other."""
    meter = Meter(hub)
    await together(calls)
    return meter.cost(load, sum(map(len, calls)))


async def _append_load(hub: MeasuredHub) -> list[OperationCost]:
    return [await appends(hub, writers, 2000 // writers) for writers in (1, 16, 64)]


async def _block_load(hub: MeasuredHub) -> list[OperationCost]:
    found = [await packs(hub, 40, 8)]
    for size, each in ((4, 40), (64, 40), (1024, 8), (4000, 4)):
        found += await blocks(hub, size * KIB, each)
    return found


async def _save_load(hub: MeasuredHub) -> list[OperationCost]:
    return await saves(hub, 30)


async def _poll_load(hub: MeasuredHub) -> list[OperationCost | Idle]:
    return [await renewals(hub, AT_ONCE, 100), *await polls(hub, 1000)]


async def _storm_load(hub: MeasuredHub) -> Sequence[OperationCost | Idle]:
    return await polls(hub, 5000)


LOADS: Final[dict[str, Callable[[MeasuredHub], Coroutine[None, None, Sequence[OperationCost | Idle]]]]] = {
    "appends": _append_load,
    "blocks": _block_load,
    "saves": _save_load,
    "polls": _poll_load,
    "storm": _storm_load,
}


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(LOADS), help="some of the loads")
    for load in parser.parse_args().only.split(","):
        with tempfile.TemporaryDirectory() as folder, measured_hub(Path(folder)) as hub:
            for figure in asyncio.run(LOADS[load](hub)):
                print(figure, flush=True)


if __name__ == "__main__":
    main()
