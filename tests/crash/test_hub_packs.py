"""A hub's packs while its housekeeping is killed at each step: nothing that was acknowledged is lost,
accounts take what they took, and the nodes are tidy in the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from backend.errors import TransientError
from backend.hub.packing import DriveNumber
from backend.packs import Pack
from backend.upstream import RESERVED_SECONDS, BlockId, SealedBlock
from tests.contents import KINDS, content
from tests.declared_failpoints import DECLARED
from tests.hub_process import HubProcess, hub_process
from tests.postgres import dump, restored
from tools.hub_server.opening import HubFolder, HubParts, opened

STEPS = sorted(name for name in DECLARED if name.partition(".")[0] in ("thin-pack", "stray-pack", "hub-pack"))
SIZE = 9_000
RELEASE = "UPDATE block SET state = 2, changed = now() - interval '2 hours'"
AGES = (
    "UPDATE pack SET emptied = emptied - interval '2 hours'",
    "UPDATE stray_pack SET seen = seen - interval '2 hours' WHERE ended IS NULL",
)


@pytest.fixture
def hub(tmp_path: Path) -> HubProcess:
    found = hub_process(tmp_path, "--profile", "2+1")
    path = found.hub / "hub.toml"
    text = path.read_text().replace(
        f"retention_seconds = {int(RESERVED_SECONDS)}", "retention_seconds = 3600"
    )
    path.write_text(text)
    return found


class Blocks:
    """A drive of the hub, and what is needed of it."""

    def __init__(self, hub: HubProcess) -> None:
        self._hub = hub
        uuid, _ = hub.new_drive()
        row = self.sql("SELECT id FROM drive WHERE uuid = %s", uuid)
        self.drive = DriveNumber(row[0][0], uuid)
        self.needed: list[SealedBlock] = []

    def sql(self, statement: str, *values: object) -> list[tuple[int, ...]]:
        with psycopg.connect(self._hub.conninfo) as connection:
            found = connection.execute(statement.encode(), values)
            return found.fetchall() if found.description else []

    def put(self, *counts: tuple[int, int]) -> None:
        """Packs of so many blocks, of which so many will not be needed any more."""
        packs = [
            [
                SealedBlock(BlockId(os.urandom(32)), content(KINDS[at % len(KINDS)], SIZE, f"{pack} {at}"))
                for at in range(count)
            ]
            for pack, (count, _) in enumerate(counts)
        ]

        async def store() -> None:
            async with opened(HubFolder.load(str(self._hub.hub))) as parts:
                for pack in packs:
                    await parts.blocks.put(self.drive, pack)
                await write_stray(parts, self.drive)

        asyncio.run(store())
        self.sql("UPDATE block SET state = 1 WHERE drive = %s", self.drive.number)
        for pack, (_, dead) in zip(packs, counts, strict=True):
            ids = [block.id for block in pack[:dead]]
            self.sql(f"{RELEASE} WHERE id = ANY(%s)", ids)
            self.needed += pack[dead:]

    def round(self, failpoints: str = "") -> int:
        """Of a process of its own, a day after the last one; its exit code."""
        self.sql("UPDATE node_listing SET due = now()")
        command = [sys.executable, "-m", "tests.crash.hub_round", str(self._hub.hub)]
        environment = {**os.environ, "DRIVEFS_FAILPOINTS": failpoints}
        return subprocess.run(command, env=environment, check=False).returncode

    def pass_time(self) -> None:
        """Two hours, for what waits."""
        for statement in AGES:
            self.sql(statement)

    def require_whole(self) -> None:
        """All that is needed is readable."""

        async def read() -> list[bytes]:
            async with opened(HubFolder.load(str(self._hub.hub))) as parts:
                return [
                    bytes((await parts.blocks.read(self.drive, each.id, 0, SIZE)).data)
                    for each in self.needed
                ]

        assert asyncio.run(read()) == [block.data for block in self.needed]

    def used(self) -> int:
        ((used,),) = self.sql("SELECT bytes FROM drive_usage WHERE drive = %s", self.drive.number)
        return used

    def require_tidy(self) -> None:
        """The nodes have the fragments of the packs that are there, which are not thin, and nothing else."""
        packs = self.sql("SELECT size FROM pack")
        assert sum(size for (size,) in packs) < len(self.needed) * SIZE / 0.6 + 512 * len(packs)
        fragments = [path for path in self._hub.hub.rglob("packs/**/*") if path.is_file()]
        assert len(fragments) == 3 * len(packs)


async def write_stray(parts: HubParts, drive: DriveNumber) -> None:
    """As a process that ends before its transaction."""

    async def end(_pack: Pack, _entries: object) -> None:
        raise TransientError("the process ended")

    block = SealedBlock(BlockId(os.urandom(32)), content("log", SIZE, 1))
    with pytest.raises(TransientError):
        await parts.blocks.write(drive, [block], end)
    await parts.blocks.store(drive).wait_for_writes()


def kill_at(drive: Blocks, step: str) -> None:
    """Rounds, until the step is reached a second time within one."""
    for _ in range(5):
        if drive.round(f"{step}=kill*1") == -signal.SIGKILL:
            return
        drive.pass_time()
    pytest.fail(f"no round reaches {step} twice")


@pytest.mark.parametrize("step", STEPS)
def test_a_round_that_is_killed_at_any_step_loses_nothing(hub: HubProcess, step: str) -> None:
    """Each step is reached for each of two drives, some in a later round; the second time kills."""
    drives = [Blocks(hub), Blocks(hub)]
    for drive in drives:
        drive.put((8, 6), (7, 7), (6, 1), (5, 4))
    kill_at(drives[0], step)
    for drive in drives:
        drive.require_whole()
        assert drive.used() == len(drive.needed) * SIZE
    assert "lost" not in hub.run("check", str(hub.hub), "--data")[1]
    for _ in range(3):
        drives[0].pass_time()
        assert drives[0].round() == 0
    for drive in drives:
        drive.require_whole()
        assert drive.used() == len(drive.needed) * SIZE
    drives[0].needed += drives[1].needed
    drives[0].require_tidy()
    code, said = hub.run("check", str(hub.hub), "--data")
    assert (code, "clean" in said) == (0, True)


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
def test_a_dump_that_is_older_than_a_rewriting_is_whole(
    hub: HubProcess, tmp_path: Path, is_late: bool
) -> None:
    """In time the packs that it names are there. Later the check finds the blocks in the packs that came."""
    drive = Blocks(hub)
    drive.put((8, 6), (6, 4))
    path = dump(hub.conninfo, tmp_path / "dump")
    assert drive.round() == 0
    if is_late:
        drive.pass_time()
        assert drive.round() == 0
    file = hub.hub / "hub.toml"
    before, hub.conninfo = hub.conninfo, restored(path)
    file.write_text(file.read_text().replace(before, hub.conninfo))
    if not is_late:
        drive.require_whole()
    code, said = hub.run("check", str(hub.hub), "--after-restore", "--data", "--repair")
    assert (code, "lost" in said) == (0, False)
    drive.require_whole()
    if is_late:
        assert drive.used() == len(drive.needed) * SIZE
