"""Blocks are stored, named, released and read while a hub rewrites and removes packs and its process ends at
any step, in any order, against a model: sets of what is needed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import TransientError
from backend.failpoints import OF_PROCESS
from backend.hub import Housekeeping, PackTable
from backend.hub.packing import DriveNumber
from backend.packs import Pack, parse_fragment_key
from backend.packs.thin_packs import THIN
from backend.upstream import BlockId, SealedBlock
from tests.contents import KINDS, content
from tests.declared_failpoints import DECLARED
from tests.hub_care import check, database_of, drive_of
from tests.hub_server import RunningHub, hub_for_test

STEPS = sorted(name for name in DECLARED if name.partition(".")[0] in ("thin-pack", "stray-pack", "hub-pack"))
RETENTION: Final = 3600.0
DUE: Final = "now() - interval '2 hours'"
DRIVES: Final = 2
FRAGMENTS: Final = 6

Seeds = st.integers(0, 1 << 30)
Steps = st.sampled_from([None, *STEPS])
Actions = st.one_of(
    st.tuples(st.just("put"), Seeds, st.none()),
    st.tuples(st.just("release"), Seeds, st.none()),
    st.tuples(st.just("give again"), Seeds, st.none()),
    st.tuples(st.just("cut off"), Seeds, st.none()),
    st.tuples(st.just("pass time"), Seeds, st.none()),
    st.tuples(st.sampled_from(["round", "round beside devices"]), Seeds, Steps),
)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Model:
    """Two drives of a hub, and what is needed of each."""

    def __init__(self, running: RunningHub) -> None:
        self.running = running
        self.sql(
            "TRUNCATE account, drive, pack, block, place, commit, drive_usage, stray_pack, node_listing"
            " CASCADE"
        )
        for node in running.nodes.values():
            node.objects.clear()
        self.drives = [drive_of(running) for _ in range(DRIVES)]
        self.needed: list[dict[BlockId, bytes]] = [{} for _ in range(DRIVES)]
        self.released: list[dict[BlockId, bytes]] = [{} for _ in range(DRIVES)]

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.running.conninfo) as connection:
            found = connection.execute(statement.encode(), values)
            return found.fetchall() if found.description else []

    # What devices do

    def put(self, source: random.Random) -> None:
        """A pack of a drive, which a commit names."""
        at = source.randrange(DRIVES)
        blocks = {
            BlockId(source.randbytes(32)): content(
                source.choice(KINDS), source.choice([1, 90, 4000, 30_000]), source.random().hex()
            )
            for _ in range(source.randint(1, 12))
        }
        self._store(at, blocks)

    def give_again(self, source: random.Random) -> None:
        """Some blocks that were released are needed again, whether they are there still or not."""
        at = source.randrange(DRIVES)
        again = {block: data for block, data in self.released[at].items() if source.random() < 0.5}
        if again:
            self._store(at, again)

    def _store(self, at: int, blocks: dict[BlockId, bytes]) -> None:
        sealed = [SealedBlock(block, data) for block, data in blocks.items()]
        self.running.call(self.running.hub.blocks.put(self.drives[at], sealed))
        self._set(at, blocks, "state = 1, changed = now()")
        self.needed[at] |= blocks
        for block in blocks:
            self.released[at].pop(block, None)

    def release(self, source: random.Random) -> None:
        """A part of what a drive needs; its time is over at once."""
        at, part = source.randrange(DRIVES), source.random()
        gone = {block: data for block, data in self.needed[at].items() if source.random() < part}
        self._set(at, gone, f"state = 2, changed = {DUE}")
        self.released[at] |= gone
        for block in gone:
            del self.needed[at][block]

    def _set(self, at: int, blocks: Sequence[BlockId] | dict[BlockId, bytes], what: str) -> None:
        number = self.drives[at].number
        self.sql(f"UPDATE block SET {what} WHERE drive = %s AND id = ANY(%s)", number, [*blocks])

    def cut_off(self, source: random.Random) -> None:
        """A process ends between a pack and its transaction."""
        drive = self.drives[source.randrange(DRIVES)]

        async def end(_pack: Pack, _entries: object) -> None:
            raise TransientError("the process ended")

        async def write() -> None:
            with suppress(TransientError):
                data = content(source.choice(KINDS), 5000, source.random().hex())
                block = SealedBlock(BlockId(source.randbytes(32)), data)
                await self.running.hub.blocks.write(drive, [block], end)

        self.running.call(write())

    def pass_time(self, _source: random.Random) -> None:
        self.sql(f"UPDATE pack SET emptied = {DUE} WHERE emptied IS NOT NULL")
        self.sql(f"UPDATE stray_pack SET seen = {DUE} WHERE ended IS NULL")

    # What the hub does

    def round(self, step: str | None = None) -> None:
        """Of a process of its own, a day after the last one. A failpoint stops it as if it ended there."""
        self.sql("UPDATE node_listing SET due = now()")
        blocks = self.running.hub.blocks

        async def run() -> None:
            async with database_of(self.running) as database:
                with suppress(OSError):
                    await Housekeeping(database, PackTable(database), blocks, frozenset, RETENTION).round()
            for drive in self.drives:
                await blocks.store(drive).wait_for_writes()

        if step is not None:
            OF_PROCESS.arm(step, "eio")
        try:
            self.running.call(run())
        finally:
            OF_PROCESS.disarm_all()

    def round_beside_devices(self, source: random.Random, step: str | None) -> None:
        """Devices go on for as long as it takes."""
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(self.round, step)
            while not work.done():
                source.choice([self.put, self.release, self.give_again])(source)
                self.require_readable()
            work.result()

    # What is true

    def require_right(self) -> None:
        """What is needed is read, and an account takes what is there of its blocks."""
        self.require_readable()
        for at, drive in enumerate(self.drives):
            used = self.running.call(self.running.hub.table.usage(drive.number)).bytes
            needed = sum(map(len, self.needed[at].values()))
            assert needed <= used <= needed + sum(map(len, self.released[at].values()))
            ((counted,),) = self.sql(
                "SELECT coalesce(sum(bytes), 0)::bigint FROM drive_usage WHERE drive = %s", drive.number
            )
            assert counted == used

    def require_readable(self) -> None:
        """All that is needed is read."""
        for drive, blocks in zip(self.drives, self.needed, strict=True):
            assert self.running.call(self._read(drive, [*blocks])) == blocks

    async def _read(self, drive: DriveNumber, blocks: Sequence[BlockId]) -> dict[BlockId, bytes]:
        read = self.running.hub.blocks.read
        parts = {block: await read(drive, block, 0, 1 << 20) for block in blocks}
        return {block: bytes(part.data) for block, part in parts.items()}

    def require_tidy(self) -> None:
        """When all has been done and time has passed: the nodes keep what is needed, and little beside."""
        for _ in range(3):
            self.round()
            self.pass_time(random.Random())
        self.require_right()
        assert check(self.running, data=True) == []
        packs = dict(self.sql("SELECT id, size FROM pack"))
        for pack, size in packs.items():
            ((needed, count),) = self.sql(
                "SELECT coalesce(sum(length), 0)::bigint, count(*) FROM place WHERE pack = %s", pack
            )
            assert 40 * count + needed + 1024 > THIN * size
        found = [parse_fragment_key(key) for node in self.running.nodes.values() for key in node.objects]
        assert sorted(pack for pack, _ in filter(None, found)) == sorted([*packs] * FRAGMENTS)
        used = sum(self.running.call(self.running.hub.table.usage(d.number)).bytes for d in self.drives)
        assert used == sum(len(data) for needed in self.needed for data in needed.values())


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(actions=st.lists(Actions, min_size=3, max_size=14))
@pytest.mark.logs_warnings
def test_no_order_of_things_loses_a_block_or_leaves_a_dead_pack(
    running: RunningHub, actions: list[tuple[str, int, str | None]]
) -> None:
    model = Model(running)
    devices = {
        "put": model.put,
        "release": model.release,
        "give again": model.give_again,
        "cut off": model.cut_off,
        "pass time": model.pass_time,
    }
    for name, seed, step in actions:
        source = random.Random(seed)
        if name == "round":
            model.round(step)
        elif name == "round beside devices":
            model.round_beside_devices(source, step)
        elif name in devices:
            devices[name](source)
        model.require_right()
    model.require_tidy()
