"""A process that uses a drive is killed while its nodes are changed: at each declared step nothing is lost,
the map is the one before or the one after, and the same change, asked for again, is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from backend.cluster import check_nodes
from backend.health import NodesWanted
from tests.crash.node_changes import change, in_use, require_acknowledged, wanted
from tests.drives import tree
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_small_drive
from tools import compose

ROOT = Path(__file__).parents[2]
MAP = ("drive-file.nodes-written", "node.in-force", "node.gone-over")
MOVING = ("rebalance.before-copy", "rebalance.copied", "rebalance.deleted")
OBJECTS = ("rebalance.object-copied", "rebalance.object-deleted")
STEPS = {
    "add": ("node.identified", "node.added", *MAP, *MOVING),
    "remove": ("node.drained", "node.emptied", "node.taken-out", "node.votes", *MAP, *MOVING, *OBJECTS),
    "replace": ("node.voteless", "node.replaced", "node.votes", *MAP, "repair.before-fragment"),
    "exchange": ("node.replaced", "node.votes", *MAP, "repair.before-fragment"),
}
IN_EVERY_RUN = {
    ("add", "drive-file.nodes-written"),
    ("add", "node.in-force"),
    ("add", "rebalance.copied"),
    ("remove", "node.gone-over"),
    ("remove", "node.emptied"),
    ("remove", "rebalance.deleted"),
    ("replace", "node.voteless"),
    ("exchange", "node.gone-over"),
}
"""The others are for `make soak`."""

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("six"))


@pytest.fixture(scope="module")
def seven(six: SmallDrive, tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    made = copy_of(six, tmp_path_factory.mktemp("seven"))
    assert made.drivefs("node", "add", made.drive / "node6", made.drive, *made.secret) == 0
    return made


def killed_at(made: SmallDrive, verb: str, step: str) -> bool:
    """Live in a process of its own; whether the step was reached, and killed it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{step}=kill"}
    program = f"from tests.crash.node_changes import main; main({str(made.folder)!r}, {verb!r})"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode == -signal.SIGKILL


def is_done(made: SmallDrive, what: NodesWanted) -> bool:
    """Whether the map has the change already: then there is nothing to ask for again."""
    nodes = {entry.name: entry for entry in check_nodes.survey(str(made.drive)).file.nodes}
    if what.verb == "remove":
        return not set(what.names) & nodes.keys()
    [name] = what.names
    place = what.places[0].url if what.places else str(made.drive / name)
    return str(nodes[name].place(str(made.drive))) == place and (Path(place) / "node.toml").exists()


async def go_on(made: SmallDrive, verb: str) -> None:
    """Use the drive again, and have what was interrupted done."""
    async with in_use(made) as drive:
        await require_acknowledged(drive, made.folder)
        what = wanted(made, verb)
        if verb == "add" or not is_done(made, what):
            assert await change(drive, what) == ""
        assert await change(drive, NodesWanted(verb="rebalance")) == ""
        await require_acknowledged(drive, made.folder)
        await drive.sync()
        made.content = await tree(drive)


@pytest.mark.parametrize(
    ("verb", "step"),
    [
        (verb, step) if (verb, step) in IN_EVERY_RUN else pytest.param(verb, step, marks=pytest.mark.soak)
        for verb, steps in STEPS.items()
        for step in steps
    ],
)
def test_killed_at_each_step(
    six: SmallDrive, seven: SmallDrive, tmp_path: Path, verb: str, step: str
) -> None:
    made = copy_of(seven if verb == "remove" else six, tmp_path)
    epoch = compose.load_drive(str(made.drive)).epoch
    assert killed_at(made, verb, step)
    assert compose.load_drive(str(made.drive)).epoch >= epoch
    trio.run(go_on, made, verb)
    file = compose.load_drive(str(made.drive))
    names = [f"node{number}" for number in range(6 if verb in ("replace", "exchange") else 7)]
    assert [entry.name for entry in file.nodes] == (names[1:] if verb == "remove" else names)
    assert all(entry.weight for entry in file.nodes)
    assert sum(entry.votes for entry in file.nodes) == 5
    assert made.fsck("-y", "--data") in (CLEAN, CORRECTED)
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content
