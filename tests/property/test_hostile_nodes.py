"""One node of six, then two, in the hands of somebody who has no key: it costs what is on them, nothing else.

Whatever is put there: the drive opens, here and on a new machine, and reads what was written; it can be
written; what this device knows of the log never gets less; the other nodes hold nothing that was made up;
nothing outside of the nodes is touched; and `fsck.drivefs -y` names the node and has all in order again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.errors import UnavailableError
from cache.local.local_state import LocalState
from tests.contents import content
from tests.drives import QUIET, make_file, tree
from tests.hostile import MARK, Attack, Hostile, attacks
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_small_drive
from tools import compose, drive_opening

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(3600)]

NODES = [f"node{number}" for number in range(6)]
PATIENCE = 60.0
EXAMPLES = [5, pytest.param(150, marks=pytest.mark.soak)]
"""Each makes a drive, reads it four times and checks it twice: seconds."""
Deeds = dict[str, list[Attack]]


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
        opening = drive_opening.opened_drive(made.unlocked(), made.own(), QUIET)
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

    async def look() -> int:
        state = LocalState(made.own().state)
        try:
            return state.known_head.number if state.known_head else 0
        finally:
            state.close()

    return trio.run(look)


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


def _take_over(made: SmallDrive, earlier: Path, deeds: Deeds) -> Path:
    """Have it all done; the folder outside of the nodes."""
    outside = made.folder / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    honest = [made.drive / name for name in NODES if name not in deeds]
    for name, chosen in deeds.items():
        file = compose.load_drive(str(made.drive))
        hostile = Hostile(made.drive / name, honest, earlier / name, outside, file)
        for attack in chosen:
            hostile.strike(attack)
    return outside


def _write_if_enough_nodes_take_it(made: SmallDrive, deeds: Deeds) -> None:
    """A pack wants five of six nodes: two that refuse make storing wait, as two that are away do."""
    try:
        _write(made, b"after", 1)
    except UnavailableError:
        assert len(deeds) > 1
        made.content = made.read_here()
        assert b"/after" in made.content, "it was accepted"


def _mend(made: SmallDrive, earlier: Path, deeds: Deeds, said: pytest.CaptureFixture[str]) -> None:
    """Once is enough, and names a node if there was anything to mend. A node of which nothing is left that
    says so may be an empty mountpoint: a person has to say that it is none, and then once is enough."""
    said.readouterr()
    mended, output = made.fsck("-y", "--data"), said.readouterr().out
    if nameless := [name for name in deeds if f"/{name} is not a node" in output]:
        for name in nameless:
            shutil.copy(earlier / name / "node.toml", made.drive / name / "node.toml")
        mended, output = made.fsck("-y", "--data"), said.readouterr().out
    assert mended == CLEAN or (mended == CORRECTED and any(name in output for name in deeds)), output
    assert made.fsck("-n", "--data") == CLEAN, said.readouterr().out


def _outcome(whole: SmallDrive, earlier: Path, deeds: Deeds, said: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = copy_of(whole, Path(folder))
        honest = [made.drive / name for name in NODES if name not in deeds]
        head, before = _known_head(made), dict(_bytes_of(honest))
        outside = _take_over(made, earlier, deeds)
        assert made.read_here() == made.content
        assert made.read() == made.content
        _write_if_enough_nodes_take_it(made, deeds)
        assert _known_head(made) >= head
        _require_untouched(honest, before)
        _mend(made, earlier, deeds, said)
        _write(made, b"in the end", 2)
        assert _known_head(made) > head
        assert made.read() == made.content
        _require_untouched(honest, before)
        assert [path.name for path in outside.iterdir()] == ["file"]
        assert (outside / "file").read_bytes() == b"theirs"


def _check_one(whole: SmallDrive, earlier: Path, said: pytest.CaptureFixture[str], examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.sampled_from(NODES), attacks())
    def run(name: str, deeds: list[Attack]) -> None:
        _outcome(whole, earlier, {name: deeds}, said)

    run()


def _check_two(whole: SmallDrive, earlier: Path, said: pytest.CaptureFixture[str], examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.permutations(NODES), attacks(), attacks())
    @example(NODES, [Attack("node.toml", "remove", 1)], [Attack("packs", "link to itself", 1)])
    @example(NODES, [Attack("next commit", "forge", 0)], [Attack("next commit", "bloat", 1)])
    def run(names: list[str], first: list[Attack], second: list[Attack]) -> None:
        _outcome(whole, earlier, {names[0]: first, names[1]: second}, said)

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_one_hostile_node_costs_its_own_fragments(
    whole: SmallDrive, earlier: Path, capsys: pytest.CaptureFixture[str], examples: int
) -> None:
    _check_one(whole, earlier, capsys, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_two_hostile_nodes_cost_their_own_fragments(
    whole: SmallDrive, earlier: Path, capsys: pytest.CaptureFixture[str], examples: int
) -> None:
    _check_two(whole, earlier, capsys, examples)
