"""Unit costs measured on this machine, and three mixed runs beside what `bench.hub_capacity` says of them."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import psycopg

from bench import hub_load
from bench.hub_capacity import KIB, MIB, Work, used
from bench.hub_client import ADDED, Call, new_blocks, together
from bench.hub_costs import Cost, Costs
from bench.hub_load import SIZES, Idle, Meter, OperationCost, devices, measured, waiting
from bench.hub_process import MeasuredHub, measured_hub

WITHIN: Final = 0.3
Run = Callable[[MeasuredHub], Awaitable[tuple[Work, OperationCost]]]


_ROW_BYTES: Final = (
    "SELECT pg_total_relation_size('block')::float / (SELECT count(*) FROM block)"
    " + pg_total_relation_size('place')::float / (SELECT count(*) FROM place),"
    " pg_total_relation_size('commit')::float / (SELECT count(*) FROM commit)"
)


async def measured_costs(hub: MeasuredHub) -> Costs:
    """The unit costs, from loads of one kind each."""
    small, large = await hub_load.blocks(hub, 4 * KIB, 40), await hub_load.blocks(hub, 4000 * KIB, 6)
    mib = (4000 - 4) / KIB
    bare = await hub_load.appends(hub, 16, 60, added=0)
    one, _ = await hub_load.polls(hub, 1)
    many, _ = await hub_load.polls(hub, 1000)
    by_kind = {
        "appends": _cost(bare),
        "named": _further(await hub_load.appends(hub, 16, 60), bare, ADDED),
        "packs": _cost(small[0]),
        "blocks": _further(await hub_load.packs(hub, 40, 8), small[0], 39),
        "stored_mib": _difference(large[0], small[0], mib),
        "asked": _cost(small[1]),
        "reads": _cost(small[2]),
        "read_mib": _difference(large[2], small[2], mib),
        "logs": _cost((await hub_load.saves(hub, 4))[1]),
        "polls": _cost(await hub_load.renewals(hub, 16, 40)),
        "idle": _idle_cost(one, many),
        "looking": Cost(one.hub_ms_a_second, one.database_ms_a_second),
    }
    with psycopg.connect(hub.conninfo) as connection:
        rows = connection.execute(_ROW_BYTES).fetchone()
    assert rows is not None
    return Costs(
        date=date.today().isoformat(),
        machine=f"{os.cpu_count()} processors ({platform.machine()})",
        by_kind=by_kind,
        poll_bytes=many.bytes_each,
        block_row_bytes=rows[0],
        commit_bytes=rows[1],
    )


def _cost(measured: OperationCost) -> Cost:
    return Cost(*_figures(measured))


def _difference(large: OperationCost, small: OperationCost, mib: float) -> Cost:
    """Of one MiB more."""
    hub, database = large.hub_ms - small.hub_ms, large.database_ms - small.database_ms
    return Cost(max(0.0, hub / mib), max(0.0, database / mib), 0.0)


def _further(many: OperationCost, one: OperationCost, more: int) -> Cost:
    """Of one block more in a pack or a commit, its bytes aside: they are few."""
    pairs = zip(_figures(many), _figures(one), strict=True)
    return Cost(*(max(0.0, (each - of_one) / more) for each, of_one in pairs))


def _figures(measured: OperationCost) -> tuple[float, float, float]:
    return measured.hub_ms, measured.database_ms, measured.wal_bytes


def _idle_cost(one: Idle, many: Idle) -> Cost:
    """Of a second of one poll more."""
    more = many.devices - one.devices
    hub = (many.hub_ms_a_second - one.hub_ms_a_second) / more
    database = (many.database_ms_a_second - one.database_ms_a_second) / more
    return Cost(max(0.0, hub), max(0.0, database))


async def office(hub: MeasuredHub) -> tuple[Work, OperationCost]:
    """Sixteen devices save files of all sizes, and each lists its log."""
    random, each, writers = Random(2), 15, 16
    sizes = [[random.choice(SIZES) for _ in range(each)] for _ in range(writers)]
    async with devices(hub, writers) as found:
        calls: list[list[Call]] = [
            [*(partial(device.save, [size]) for size in of_one), partial(device.log, 0)]
            for device, of_one in zip(found, sizes, strict=True)
        ]
        cost = await measured(hub, "office", calls)
    count, stored = float(each * writers), sum(map(sum, sizes)) / MIB
    return Work(
        appends=count, named=count, packs=count, asked=count, stored_mib=stored, logs=float(writers)
    ), cost


async def fetching(hub: MeasuredHub) -> tuple[Work, OperationCost]:
    """Eight devices store large files of many blocks, and read all of it twice, as two new machines do."""
    count, size, readers, files = 10, 1 << 20, 8, 4
    async with devices(hub, readers) as found:
        calls: list[list[Call]] = []
        for device in found:
            of_one: list[Call] = []
            for _ in range(files):
                blocks = new_blocks([size] * count)
                ids = [block.id for block in blocks]
                read = [partial(device.read, block) for block in ids]
                of_one += [partial(device.missing, ids), partial(device.put, blocks), *read, *read]
            calls.append(of_one)
        cost = await measured(hub, "fetching", calls)
    stored = float(readers * files * count)
    packs = 2.0 * readers * files  # a request has at most 8 MiB
    work = Work(packs=packs, blocks=stored - packs, asked=float(readers * files), stored_mib=stored)
    return replace(work, reads=2 * stored, read_mib=2 * stored), cost


async def idling(hub: MeasuredHub) -> tuple[Work, OperationCost]:
    """Five hundred devices wait and come back, while eight publish small commits."""
    count, each = 500, 40
    async with devices(hub, count) as found, devices(hub, 8) as writers:
        meter, began = Meter(hub), time.perf_counter()
        await together([[partial(device.poll, 0)] * 2 for device in found])
        async with waiting(hub, found):
            await together([[partial(device.append, [])] * each for device in writers])
            took, cost = time.perf_counter() - began, meter.cost("idling", 1)
    return Work(appends=8.0 * each, polls=3.0 * count, idle=count * took, looking=took), cost


RUNS: Final[dict[str, Run]] = {"office": office, "fetching": fetching, "idling": idling}


async def _compare(hub: MeasuredHub) -> bool:
    costs = await measured_costs(hub)
    print(costs)
    is_within = True
    for name, run in RUNS.items():
        work, found = await run(hub)
        said = used(work, costs)
        for what in ("hub_ms", "database_ms", "wal_bytes"):
            actual, predicted = getattr(found, what) * found.operations, getattr(said, what)
            off = predicted / actual - 1
            is_within = is_within and abs(off) <= WITHIN
            print(
                f"{name:10s} {what:12s} predicted {predicted:12,.0f}, was {actual:12,.0f}: {off:+.0%}",
                flush=True,
            )
    return is_within


def validate() -> None:
    """Prints the costs and the comparison; `SystemExit` if one is off by more than `WITHIN`."""
    with tempfile.TemporaryDirectory() as folder, measured_hub(Path(folder)) as hub:
        if not asyncio.run(_compare(hub)):
            raise SystemExit(f"a prediction is off by more than {WITHIN:.0%}")
