"""One node of six, then two, in the hands of somebody who has no key: it costs what is on them, nothing else.

Whatever is put there: the drive opens, here and on a new machine, and reads what was written; it can be
written; what this device knows of the log never gets less; the other nodes hold nothing that was made up;
nothing outside of the nodes is touched; and `fsck.drivefs -y` names the node and has all in order again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.local_state import LocalState
from tests.contents import content
from tests.drives import QUIET, make_file, tree
from tests.hostile import MARK, Attack, Hostile, attacks
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_small_drive
from tools import compose

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(900)]

NODES = [f"node{number}" for number in range(6)]
PATIENCE = 60.0
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "5"))
"""Each makes a drive, reads it five times and checks it twice: seconds."""
NOTHING_IS_KEPT = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
"""between examples: `capsys` is emptied in each"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def earlier(whole: SmallDrive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nodes as they were some commits ago."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.copytree(whole.drive, folder / "drive")
    _write(whole, b"since", 0)
    whole.content = whole.read()
    return folder / "drive"


def _write(made: SmallDrive, name: bytes, seed: int) -> None:
    """One more file; the drive's content is what is there then."""

    async def write() -> None:
        opening = compose.opened_drive(made.unlocked(), made.own(), QUIET)
        with trio.fail_after(PATIENCE):
            async with opening as opened, trio.open_nursery() as nursery:
                await nursery.start(opened.run)
                await make_file(opened, name, content("half-compressible", 60_000, seed))
                await opened.sync()
                made.content = await tree(opened)
                nursery.cancel_scope.cancel()

    trio.run(write)


def _known_head(made: SmallDrive) -> int:
    """The newest commit that this device has seen, by what it keeps."""
    state = LocalState(made.own().state)
    try:
        return state.known_head.number if state.known_head else 0
    finally:
        state.close()


def _bytes_of(nodes: list[Path]) -> Iterator[tuple[Path, bytes]]:
    for node in nodes:
        for path in sorted(node.rglob("*")):
            assert path.is_dir() or path.is_file(), path
            assert not path.is_symlink()
            if path.is_file():
                yield path, path.read_bytes()


def _require_untouched(honest: list[Path], before: dict[Path, bytes]) -> None:
    """What was there is there, and nothing that was made up."""
    now = dict(_bytes_of(honest))
    assert not [path for path, data in now.items() if MARK in data or MARK.hex().encode() in data]
    for path, data in before.items():
        if path.name not in ("lease", "snapshot") and path.parent.name != "commits":
            assert now[path] == data, path
    assert before.keys() <= now.keys()


def _outcome(
    whole: SmallDrive, earlier: Path, deeds: dict[str, list[Attack]], said: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, outside = copy_of(whole, folder), folder / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"theirs")
        honest = [made.drive / node for node in NODES if node not in deeds]
        head, before = _known_head(made), dict(_bytes_of(honest))
        for node, list_of_attacks in deeds.items():
            file = compose.load_drive(str(made.drive))
            hostile = Hostile(made.drive / node, honest, earlier / node, outside, file)
            for attack in list_of_attacks:
                hostile.strike(attack)
        assert made.read_here() == made.content
        assert made.read() == made.content
        _write(made, b"after", 1)
        assert _known_head(made) == head + 1
        assert made.read() == made.content
        _require_untouched(honest, before)
        said.readouterr()
        mended = made.fsck("-y", "--data")
        output = said.readouterr().out
        assert mended in (CLEAN, CORRECTED), output
        assert mended == CLEAN or any(node in output for node in deeds), output
        assert made.fsck("-n", "--data") == CLEAN, said.readouterr().out
        assert made.read() == made.content
        _require_untouched(honest, before)
        assert [path.name for path in outside.iterdir()] == ["file"]
        assert (outside / "file").read_bytes() == b"theirs"


@settings(max_examples=EXAMPLES, suppress_health_check=NOTHING_IS_KEPT)
@given(st.sampled_from(NODES), attacks())
def test_one_hostile_node_costs_its_own_fragments(
    whole: SmallDrive,
    earlier: Path,
    capsys: pytest.CaptureFixture[str],
    node: str,
    deeds: list[Attack],
) -> None:
    _outcome(whole, earlier, {node: deeds}, capsys)


@settings(max_examples=EXAMPLES, suppress_health_check=NOTHING_IS_KEPT)
@given(st.permutations(NODES), attacks(), attacks())
def test_two_hostile_nodes_cost_their_own_fragments(
    whole: SmallDrive,
    earlier: Path,
    capsys: pytest.CaptureFixture[str],
    nodes: list[str],
    first: list[Attack],
    second: list[Attack],
) -> None:
    _outcome(whole, earlier, {nodes[0]: first, nodes[1]: second}, capsys)
