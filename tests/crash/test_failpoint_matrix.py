"""Every declared failpoint x {kill, EIO, ENOSPC, power cut} on a whole drive with real nodes and databases.

After each the drive is opened again: it holds a state between what was acknowledged and what was begun
(I6, I7), the past that is retained is what it was (I3), work goes on, `fsck.drivefs -y --data` and then
`-n --data` find nothing left (I1, I2, I4), and a machine that has never seen the drive reads the same (I5).

By default some failpoints meet one fault each, the faults in turn. `-m soak` runs all, at the first time
that the failpoint is reached and in the middle of the run, and writes the table of results to the file
`MATRIX_TABLE`, if that is set. `MATRIX_SEED` repeats what power cuts left there.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from backend.errors import DriveError
from cache.drive import Drive
from tests.crash import matrix
from tests.crash.matrix import ENDED, FAULTS, Told, opened
from tests.crash.steps import CHANGES, STATES, State, state_of
from tests.crash.test_collection import State as PastState
from tests.crash.test_collection import codec_of, state_at
from tests.crash.test_failpoints_in_process import SALVAGES
from tests.declared_failpoints import DECLARED
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_empty_drive
from tests.unit.tools.commands.test_node_changes import STEPS as NODE_CHANGES
from tests.unit.tools.commands.test_recover import STEPS as RECOVERY

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(120)]

COMMANDS = "tests/unit/tools/commands"
ENROLMENT = {"enrolment.kept", "enrolment.added", "enrolment.became"}
REBASES = {"rebase.aside", "rebase.followed", "rebase.journaled", "rebase.spooled", "rebase.synced"}
ELSEWHERE = {
    "a drive is moved from a hub to nodes (`tests/crash/test_moving_back.py`)": {
        "move.arrived",
        "move.closed",
        "move.noted",
        "move.told",
    },
    "a drive is moved to a hub (`tests/crash/test_moving.py`)": {
        "copying.blocks",
        "copying.log",
        "move.marked",
        "move.opened",
    },
    f"nodes come and go (`{COMMANDS}/test_node_changes.py`)": {*NODE_CHANGES},
    f"a node is replaced (`{COMMANDS}/test_node_commands.py`)": {"node.replaced", "node.voteless"},
    f"a majority of the voters is lost (`{COMMANDS}/test_recover.py`)": {*RECOVERY},
    "there are more nodes than fragments (`tests/unit/backend/blocks/test_block_store.py`)": {
        "pack.before-stand-in"
    },
    "a cut is taken back (`tests/crash/test_failpoints_in_process.py`)": {"ledger.reopening"},
    "several devices write one drive (`tests/sync/test_whole_drives.py`, `test_rebases_aside.py`)": {
        *REBASES
    },
    "a state folder becomes a device (`tests/unit/cache/test_enrolment.py`)": {*ENROLMENT},
    "a hub moves old commits (`tests/unit/backend/hub/test_log_segments.py`)": {
        "segment.noted",
        "segment.stored",
    },
    "a restored database is brought up to the nodes (`tests/unit/backend/hub/test_after_restore.py`)": {
        "restore.brought"
    },
    "a hub looks after its packs (`tests/crash/test_hub_packs.py`)": {
        "hub-pack.deleting",
        "stray-pack.deleting",
        "stray-pack.ended",
        "thin-pack.moved",
        "thin-pack.stored",
    },
    "a node has no room (`tests/unit/backend/nodes/test_ballast.py`)": {"node.ballast-given"},
    "a journal cannot be read (`tests/crash/test_salvages.py`)": {*SALVAGES},
}
"""Failpoints that the life does not reach, by the cause that they have and the tests that have it."""
NAMES = sorted(DECLARED.keys() - set[str]().union(*ELSEWHERE.values()))
PAGE = Path(__file__).parents[2] / "docs" / "fault_matrix.md"
SEED = int(os.environ.get("MATRIX_SEED", random.randrange(1 << 30)))
PINNED = 3
SAMPLE = 6
"""Of so many failpoints one is tried in every run: a cell takes seconds."""


@dataclass
class Begun:
    """A drive with a past, whose process is gone; what it was at the pinned commit, and how often a whole
    life reaches each failpoint."""

    drive: SmallDrive
    past: PastState
    hits: dict[str, int]


def in_a_process(target: object, *arguments: object) -> int | None:
    """Run it forked from a process that has everything imported; the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.matrix"])
    process = context.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    process.join()
    return process.exitcode


async def _past_of(drive: SmallDrive) -> PastState:
    async with opened(drive) as found:
        return await _past_in(found, drive)


async def _past_in(found: Drive, drive: SmallDrive) -> PastState:
    unlocked = drive.unlocked()
    codec = codec_of(found, unlocked.file.id, unlocked.keys)
    return await state_at(found, PINNED, codec=codec)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Made once; each test has a copy."""
    drive = make_empty_drive(tmp_path_factory.mktemp("begun"))
    assert in_a_process(matrix.begin, str(drive.folder)) == -signal.SIGKILL
    matrix.spoil(drive)
    print(f"MATRIX_SEED={SEED}")
    looked_at = copy_of(drive, tmp_path_factory.mktemp("looked-at"))
    past = trio.run(_past_of, looked_at)
    counted = copy_of(drive, tmp_path_factory.mktemp("counted"))
    assert in_a_process(matrix.live, str(counted.folder), "", "count", 0, 0) == ENDED
    seen = (counted.folder / "seen").read_text().split()
    assert Told.read(counted.folder / "log").durable == len(CHANGES)
    return Begun(drive, past, {name: seen.count(name) for name in NAMES})


def test_a_life_without_faults_goes_through_every_failpoint(begun: Begun) -> None:
    assert [name for name in NAMES if not begun.hits[name]] == []
    assert len(NAMES) > 35


def suffer(begun: Begun, folder: Path, name: str, fault: str, skip: int, seed: int) -> None:
    """One cell of the table: see the module."""
    drive = copy_of(begun.drive, folder)
    code = in_a_process(matrix.live, str(folder), name, fault, skip, seed)
    assert code == (ENDED if fault in ("eio", "enospc") else -signal.SIGKILL)
    assert name in (folder / "seen").read_text().split(), "the failpoint was not reached"
    told = Told.read(folder / "log") if (folder / "log").exists() else Told()
    least = told.done if fault in ("kill", "eio", "enospc") else told.durable
    state = trio.run(_check, drive, begun, least, told.begun)
    assert drive.fsck("-y", "--data") in (CLEAN, CORRECTED)
    assert drive.fsck("-n", "--data") == CLEAN
    drive.forget()
    assert trio.run(_read, drive) == state


async def _check(drive: SmallDrive, begun: Begun, least: int, most: int) -> State:
    """The drive is what it must be, and goes on; what it holds then."""
    async with opened(drive) as found:
        number = _number_of(await state_of(found), least, most)
        assert await _past_in(found, drive) == begun.past
        await _go_on(found, number)
        await found.retention.collect(grace=0)
        assert await _past_in(found, drive) == begun.past
    async with opened(drive) as found:
        return await state_of(found)


def _number_of(state: State, least: int, most: int) -> int:
    fitting = [number for number in range(least, most + 1) if STATES[number] == state]
    assert fitting, f"not a state between {least} and {most}"
    return fitting[0]


async def _go_on(drive: Drive, number: int) -> None:
    for change, _ in CHANGES[number : number + 3]:
        await change(drive)
    await drive.sync()
    assert await state_of(drive) == STATES[min(number + 3, len(CHANGES))]


async def _read(drive: SmallDrive) -> State:
    async with opened(drive) as found:
        return await state_of(found)


@pytest.mark.parametrize(
    ("name", "fault"), [(name, FAULTS[at // SAMPLE % 4]) for at, name in enumerate(NAMES)][::SAMPLE]
)
def test_some_of_them(begun: Begun, tmp_path: Path, name: str, fault: str) -> None:
    suffer(begun, tmp_path, name, fault, 0, len(name))


def test_the_checks_can_fail(begun: Begun, tmp_path: Path) -> None:
    """A disk that says it synced, and did not, loses what was acknowledged."""
    with pytest.raises((AssertionError, DriveError)):
        suffer(begun, tmp_path, "retention.accepted", matrix.LIE, 0, 0)


# The complete table


class Table:
    """Results by failpoint and fault, written as Markdown."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}

    @contextmanager
    def cell(self, name: str, fault: str, times: int) -> Iterator[None]:
        """The work in the block decides what is in the cell."""
        self._cells[name, fault] = "**failed**"
        yield
        self._cells[name, fault] = f"held ({times})"

    def write(self, path: Path) -> None:
        head = f"| failpoint | {' | '.join(FAULTS)} |\n|{'---|' * (len(FAULTS) + 1)}\n"
        rows = [
            f"| `{name}` | {' | '.join(self._cells.get((name, fault), 'not run') for fault in FAULTS)} |\n"
            for name in NAMES
        ]
        date = time.strftime("%Y-%m-%d", time.gmtime())
        text = _HEAD.format(date=date, seed=SEED, times=matrix.TIMES)
        path.write_text(f"{text}{elsewhere()}\n{head}{''.join(rows)}")


_HEAD = """# The failpoint matrix

Written by `make soak` (tests/crash/test_failpoint_matrix.py) on {date}, seed {seed}. Each failpoint was
seen to fire; then the drive was opened again and held a state between what was acknowledged and what was
begun, its retained past was unchanged, work went on, `fsck.drivefs --data` ended clean, and the nodes alone
gave the same tree. In brackets: at how many moments of the life (the first time that the failpoint is
reached, and in the middle). `kill`: SIGKILL there. `eio`, `enospc`: the step fails {times} times, then goes
well. `power`: SIGKILL, and what was not fsynced is dropped, torn or reordered: on the nodes, in the journal
and in the databases.

"""


def elsewhere() -> str:
    """The lines of the page on the failpoints that are not in its table."""
    causes = (
        f"- where {cause}: {', '.join(f'`{name}`' for name in sorted(names))}\n"
        for cause, names in ELSEWHERE.items()
    )
    return f"Not in the table, as a life does not reach them, and tested elsewhere:\n\n{''.join(causes)}"


def test_the_page_has_a_row_for_each_failpoint_that_a_life_reaches() -> None:
    page = PAGE.read_text()
    assert re.findall(r"^\| `([\w.-]+)`", page, re.MULTILINE) == NAMES
    assert elsewhere() in page


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    found = Table()
    yield found
    path = os.environ.get("MATRIX_TABLE")
    if path:
        found.write(Path(path))


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_matrix(begun: Begun, tmp_path: Path, table: Table, name: str, fault: str) -> None:
    skips = sorted({0, begun.hits[name] // 2})
    with table.cell(name, fault, len(skips)):
        for skip in skips:
            folder = tmp_path / str(skip)
            folder.mkdir()
            suffer(begun, folder, name, fault, skip, SEED)
