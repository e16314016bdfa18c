"""Unit costs measured on this machine, and three mixed runs beside what `bench.hub_capacity` says of them."""

from __future__ import annotations

import asyncio
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from bench import hub_load
from bench.hub_capacity import KIB, MIB, Work, used
from bench.hub_client import Call, new_blocks, together
from bench.hub_costs import Cost, Costs
from bench.hub_load import SIZES, Idle, Meter, OperationCost, devices, until_all_wait
from bench.hub_process import MeasuredHub, measured_hub

WITHIN: Final = 0.3
Run = Callable[[MeasuredHub], Awaitable[Work]]


async def measured_costs(hub: MeasuredHub) -> Costs:
    """The unit costs, from loads of one kind each."""
    small, large = await hub_load.blocks(hub, 4 * KIB, 40), await hub_load.blocks(hub, 4000 * KIB, 6)
    mib = (4000 - 4) / KIB
    one, _ = await hub_load.polls(hub, 1)
    many, _ = await hub_load.polls(hub, 1000)
    return Costs(
        date=date.today().isoformat(),
        machine=f"{platform.machine()}, 2 busy cores",
        by_kind={
            "appends": _cost(await hub_load.appends(hub, 16, 60)),
            "packs": _cost(small[0]),
            "stored_mib": _difference(large[0], small[0], mib),
            "asked": _cost(small[1]),
            "reads": _cost(small[2]),
            "read_mib": _difference(large[2], small[2], mib),
            "logs": _cost((await hub_load.saves(hub, 4))[1]),
            "polls": _cost(await hub_load.renewals(hub, 16, 40)),
            "idle": _idle_cost(one, many),
            "looking": Cost(one.hub_ms_a_second, one.database_ms_a_second),
        },
        poll_bytes=many.bytes_each,
    )


def _cost(measured: OperationCost) -> Cost:
    return Cost(measured.hub_ms, measured.database_ms, measured.wal_bytes)


def _difference(large: OperationCost, small: OperationCost, mib: float) -> Cost:
    """Of one MiB more."""
    hub, database = large.hub_ms - small.hub_ms, large.database_ms - small.database_ms
    return Cost(max(0.0, hub / mib), max(0.0, database / mib), 0.0)


def _idle_cost(one: Idle, many: Idle) -> Cost:
    """Of a second of one poll more."""
    more = many.devices - one.devices
    hub = (many.hub_ms_a_second - one.hub_ms_a_second) / more
    database = (many.database_ms_a_second - one.database_ms_a_second) / more
    return Cost(max(0.0, hub), max(0.0, database))


async def office(hub: MeasuredHub) -> Work:
    """Sixteen devices save files of all sizes, and each lists its log."""
    random, each, writers = Random(2), 15, 16
    sizes = [[random.choice(SIZES) for _ in range(each)] for _ in range(writers)]
    async with devices(hub, writers) as found:
        files: list[list[Call]] = [
            [*(partial(device.save, [size]) for size in of_one), partial(device.log, 0)]
            for device, of_one in zip(found, sizes, strict=True)
        ]
        await together(files)
    count = float(each * writers)
    stored = sum(map(sum, sizes)) / MIB
    return Work(appends=count, packs=count, asked=count, stored_mib=stored, logs=float(writers))


async def fetching(hub: MeasuredHub) -> Work:
    """Eight devices store a large file of many blocks, and read all of it twice, as two new machines do."""
    count, size, readers = 10, 1 << 20, 8
    async with devices(hub, readers) as found:
        calls: list[list[Call]] = []
        for device in found:
            blocks = new_blocks([size] * count)
            ids = [block.id for block in blocks]
            read: list[Call] = [partial(device.read, block) for block in ids]
            calls.append([partial(device.missing, ids), partial(device.put, blocks), *read, *read])
        await together(calls)
    requests = 2.0 * readers  # a batch has at most 8 MiB
    mib, read_mib = (float(readers * count * times) for times in (1, 2))
    return Work(packs=requests, asked=float(readers), stored_mib=mib, reads=read_mib, read_mib=read_mib)


async def waiting(hub: MeasuredHub) -> Work:
    """Five hundred devices wait and come back, while eight publish small commits."""
    began, count, each = time.perf_counter(), 500, 40
    async with devices(hub, count) as found, devices(hub, 8) as writers:
        await together([[partial(device.poll, 0)] * 2 for device in found])
        polls = [asyncio.create_task(device.poll(120)) for device in found]
        await until_all_wait(hub)
        await together([[partial(device.append, [])] * each for device in writers])
        took = time.perf_counter() - began
        for poll in polls:
            poll.cancel()
        await asyncio.wait(polls)
    return Work(appends=8.0 * each, polls=3.0 * count + 4, idle=count * took, looking=took)


RUNS: Final[dict[str, Run]] = {"office": office, "fetching": fetching, "waiting": waiting}


async def _compare(hub: MeasuredHub) -> bool:
    costs = await measured_costs(hub)
    print(costs)
    is_within = True
    for name, run in RUNS.items():
        meter = Meter(hub)
        work = await run(hub)
        found, said = _cost(meter.cost(name, 1)), used(work, costs)
        for what in ("hub_ms", "database_ms", "wal_bytes"):
            actual, predicted = getattr(found, what), getattr(said, what)
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
