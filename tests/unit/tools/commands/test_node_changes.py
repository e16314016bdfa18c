"""`drivefs node add`, `remove`, `rebalance`: nodes come and go, killed at each step, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import trio

from backend.cluster import drive_file_copies
from backend.cluster.check_nodes import Survey, survey
from backend.cluster.cluster_change import held
from backend.cluster.drive_file import DriveFile
from backend.cluster.rebalance import Rebalance
from backend.coding.placement import place
from backend.commits.lease import Lease
from backend.commits.object_format import frame, signed, unframe
from backend.commits.process_identity import this_process
from backend.commits.replicated_objects import ranking_of
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    LeaseHeldError,
    NoSpaceError,
    UnavailableError,
    UsageError,
)
from backend.failpoints import OF_PROCESS
from backend.nodes.node import Node
from backend.packs.fragment_format import parse_fragment_key
from tests.declared_failpoints import DECLARED
from tests.drives import QUIET, make_file
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_small_drive
from tools import compose, drive_nodes, drive_opening
from tools.errors import ToolError
from tools.host import mounts
from tools.host.mounts import Mount
from tools.mkfs import mkfs

ROOT = Path(__file__).parents[4]
PREFIXES = (
    "rebalance",
    "node.identified",
    "node.added",
    "node.drained",
    "node.emptied",
    "node.gone-over",
    "node.in-force",
    "node.taken-out",
    "node.votes",
)
STEPS = sorted(name for name in DECLARED if name.startswith((*PREFIXES, "drive-file.nodes-written")))
ADDING = ("node.identified", "node.added")
IN_EVERY_RUN = ("drive-file.nodes-written", "node.emptied", "rebalance.deleted", "rebalance.object-deleted")
"""Kills in a removal where something is about to be gone; the others are for `make soak`."""

pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("six"))


@pytest.fixture(scope="module")
def eight(six: SmallDrive, tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    made = copy_of(six, tmp_path_factory.mktemp("eight"))
    assert add(made, "node6", "node7") == 0
    return made


@pytest.fixture
def made(six: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(six, tmp_path)


@pytest.fixture
def large(eight: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(eight, tmp_path)


def add(made: SmallDrive, *names: str) -> int:
    return made.drivefs("node", "add", *(made.drive / name for name in names), made.drive, *made.secret)


def remove(made: SmallDrive, *names: str) -> int:
    return made.drivefs("node", "remove", *names, made.drive, *made.secret)


def fragments(made: SmallDrive) -> dict[bytes, dict[int, set[str]]]:
    """The nodes that hold each fragment of each pack, by the files."""
    found: dict[bytes, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in made.drive.glob("node*/packs/*/[!.]*"):
        node = path.relative_to(made.drive).parts[0]
        parsed = parse_fragment_key(str(path.relative_to(made.drive / node)))
        assert parsed is not None
        found[parsed[0]][parsed[1]].add(node)
    return found


def busiest(made: SmallDrive) -> tuple[str, str]:
    """The two nodes with the most fragments and the most copies of small objects: pack ids are random."""

    def held_by(pair: tuple[str, str]) -> int:
        counts = [
            sum(len(list(made.drive.glob(f"{name}/{what}"))) for name in pair)
            for what in ("packs/*/[!.]*", "[cr]o[mo]*/[!.]*")
        ]
        return min(counts)

    names = [entry.name for entry in compose.load_drive(str(made.drive)).nodes]
    pair = max(combinations(names, 2), key=held_by)
    assert held_by(pair) >= 3
    return pair


def fullest(made: SmallDrive) -> str:
    """The node with the most fragments."""
    held = Counter(name for at in fragments(made).values() for names in at.values() for name in names)
    name, count = held.most_common(1)[0]
    assert count >= 2
    return name


def a_pack_of(made: SmallDrive, node: str) -> tuple[bytes, dict[int, str]]:
    """A pack of which the node has a fragment, and where they all are."""
    for pack_id, holders in fragments(made).items():
        nodes = {at: next(iter(names)) for at, names in holders.items()}
        if node in nodes.values():
            return pack_id, nodes
    raise AssertionError(f"{node} holds nothing")


def require_redundant(made: SmallDrive, packs: int) -> None:
    """What is promised at every moment: six fragments of each pack on six nodes, three of each commit."""
    found = fragments(made)
    assert len(found) == packs
    for held_by in found.values():
        assert len(held_by) == 6
        assert len(set().union(*held_by.values())) >= 6
    commits = Counter(path.name for path in made.drive.glob("node*/commits/[!.]*"))
    assert min(commits.values()) >= 3


def require_in_place(made: SmallDrive) -> None:
    """Everything lies where the cluster map wants it, once."""
    cluster = drive_nodes.cluster_map(compose.load_drive(str(made.drive)))
    for pack_id, held_by in fragments(made).items():
        nodes = [name for names in held_by.values() for name in names]
        assert sorted(nodes) == sorted(place(cluster, pack_id, 6))
    rank = ranking_of(cluster, 3)
    for folder in ("commits", "roots"):
        for key in {f"{folder}/{path.name}" for path in made.drive.glob(f"node*/{folder}/[!.]*")}:
            holders = {path.relative_to(made.drive).parts[0] for path in made.drive.glob(f"node*/{key}")}
            assert holders == set(rank(key.encode())[:3])


def require_whole(made: SmallDrive) -> None:
    require_in_place(made)
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content


def test_nodes_are_added_and_get_their_share(made: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    before = fragments(made)
    assert add(made, "node6", "node7") == 0
    assert "node7 (epoch 3)" in capsys.readouterr().out
    require_whole(made)
    after = fragments(made)
    for pack_id, held_by in before.items():
        moved = [at for at in held_by if after[pack_id][at] != held_by[at]]
        assert all(after[pack_id][at] <= {"node6", "node7"} for at in moved), "more moved than had to"
    assert sum(len(list(made.drive.glob(f"{name}/packs/*/*"))) for name in ("node6", "node7"))
    assert made.drivefs("node", "rebalance", made.drive, *made.secret) == 0
    assert "0 fragments moved (0 B), 0 rebuilt, 0 copies" in capsys.readouterr().out
    for name in ("node1", "node6"):
        shutil.rmtree(made.drive / name)
    assert made.read() == made.content


def test_a_node_is_removed_and_leaves_an_empty_folder(
    large: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    (large.drive / "node3" / "mine").write_text("a foreign file stays")
    assert remove(large, "node3") == 0
    assert "node3 is no node any more (epoch 5)" in capsys.readouterr().out
    assert [path.name for path in (large.drive / "node3").iterdir()] == ["mine"]
    assert large.drivefs("node", "list", large.drive) == 0
    assert "node3" not in capsys.readouterr().out
    require_whole(large)
    for name in ("node0", "node7"):
        shutil.rmtree(large.drive / name)
    assert large.read() == large.content


def test_the_cache_of_this_machine_learns_where_everything_is_now(large: SmallDrive) -> None:
    assert remove(large, "node0", "node4") == 0
    unlocked = large.unlocked()

    async def use() -> None:
        async with (
            drive_opening.opened_drive(unlocked, large.own(), QUIET) as opened,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(opened.run)
            status = await opened.upstream.housekeeping.status()
            assert status.packs_to_repair == 0
            await make_file(opened, b"more", b"x" * 10_000)
            await opened.sync()
            nursery.cancel_scope.cancel()

    trio.run(use)
    assert large.fsck("-n", "--data") == CLEAN


@pytest.mark.parametrize("dead", [("node2",), ("node2", "node7")])
def test_lost_nodes_are_removed_and_what_they_held_is_rebuilt(
    large: SmallDrive, dead: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in dead:
        shutil.rmtree(large.drive / name)
    if len(dead) > 1:
        with pytest.raises(UnavailableError, match=f"{dead[1]}.*in the same command"):
            remove(large, dead[0])
    assert remove(large, *dead) == 0
    assert "was not there" in capsys.readouterr().out
    require_redundant(large, len(fragments(large)))
    require_whole(large)


def test_what_the_profile_needs_cannot_be_removed(made: SmallDrive) -> None:
    before = {path: path.read_bytes() for path in made.drive.glob("**/drive.toml")}
    with pytest.raises(ToolError, match=r"profile 4\+2 needs 6 nodes and 5 would be left: add a node first"):
        remove(made, "node1")
    assert {path: path.read_bytes() for path in made.drive.glob("**/drive.toml")} == before
    with pytest.raises(UsageError, match="no node is named node9; there are node0, node1"):
        remove(made, "node9")
    with pytest.raises(UsageError, match="the same folder"):
        add(made, "new", "new")
    assert not (made.drive / "new").exists()
    shutil.rmtree(made.drive / "node1")
    with pytest.raises(UnavailableError, match="nothing is added while nodes are away"):
        add(made, "new")
    with pytest.raises(UsageError, match="rate"):
        made.drivefs("node", "rebalance", "--rate", "0", made.drive)


def test_a_drive_that_is_in_use_is_refused(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold() -> None:
        async with drive_opening.opened_drive(made.unlocked(), made.own(), QUIET):
            with pytest.raises(LeaseHeldError):
                await trio.to_thread.run_sync(add, made, "node6")

    trio.run(hold)
    assert not (made.drive / "node6").exists()
    there = [Mount(str(made.folder / "mnt"), "fuse.drivefs", str(made.drive))]
    monkeypatch.setattr(mounts, "mounts", lambda: there)
    monkeypatch.setattr(mounts, "drives", lambda: there)
    (made.folder / "mnt").mkdir()
    with pytest.raises(ToolError, match="no drivefs drive is mounted here"):
        made.drivefs("node", "add", made.drive / "node6", made.folder / "mnt", *made.secret)
    with pytest.raises(ToolError, match="mounted at"):
        add(made, "node6")


def test_who_took_the_map_before_a_change_and_the_lease_after_it_is_refused(made: SmallDrive) -> None:
    old = made.unlocked()
    assert add(made, "node6") == 0

    async def mount() -> None:
        async with drive_opening.opened_drive(old, made.own(), QUIET):
            pytest.fail("opened with an old map")

    with pytest.raises(ConflictError, match="nodes were changed"):
        trio.run(mount)

    async def change() -> None:
        nodes = drive_nodes.open_nodes(old.folder, old.file)
        lease = Lease(nodes, old.file.id, old.keys.lease, this_process(), map_epoch=old.file.epoch)
        async with held(old.folder, old.file, nodes, lease):
            pytest.fail("held with an old map")

    with pytest.raises(ConflictError, match="nodes were changed"):
        trio.run(change)


async def opened(made: SmallDrive) -> None:
    """As a mount that ends at once."""
    async with drive_opening.opened_drive(made.unlocked(), made.own(), QUIET):
        await trio.lowlevel.checkpoint()


def test_the_message_leads_from_an_old_drive_file_to_the_newer_one(made: SmallDrive) -> None:
    """Regression: "try again" was said for ever of a drive.toml from a backup, or of another machine."""
    own = made.drive / "drive.toml"
    old = own.read_bytes()
    assert add(made, "node6", "node7") == 0
    assert remove(made, "node0", "node1") == 0
    newer = own.read_bytes()
    own.write_bytes(old)
    with pytest.raises(ConflictError, match=r"DRIVE/drive\.toml is old: fsck\.drivefs -y DRIVE, else"):
        trio.run(opened, made)
    assert made.fsck("-y") == CORRECTED
    assert own.read_bytes() == newer
    trio.run(opened, made)
    assert made.read() == made.content


def test_the_message_leads_from_an_old_drive_file_that_names_one_node(tmp_path: Path) -> None:
    """One node is no majority against the drive's folder, whatever a person does first."""
    made = SmallDrive(tmp_path, {})
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    assert (
        mkfs(["-q", "--profile", "copies:1", *made.secret, "--node", f"{made.drive}/node0", str(made.drive)])
        == 0
    )
    own = made.drive / "drive.toml"
    old = own.read_bytes()
    assert add(made, "node1", "node2") == 0
    newer = compose.load_drive(str(made.drive)).epoch
    own.write_bytes(old)
    with pytest.raises(ConflictError, match="try again"):
        made.fsck("-y")
    assert compose.load_drive(str(made.drive / "node0")).epoch == newer  # it is as it was
    with pytest.raises(
        ConflictError, match=r"else move it aside: drivefs rebuild-drive-file NODE\.\.\. DRIVE$"
    ):
        trio.run(opened, made)
    own.rename(tmp_path / "aside")
    nodes = [made.drive / f"node{number}" for number in range(3)]
    assert made.drivefs("rebuild-drive-file", *nodes, made.drive) == 0
    assert compose.load_drive(str(made.drive)).epoch == newer
    trio.run(opened, made)


def test_a_stopped_holder_of_an_old_map_is_fenced_whatever_became_of_its_nodes(large: SmallDrive) -> None:
    drive = large.unlocked()
    file = drive.file
    nodes = drive_nodes.open_nodes(str(large.drive), file)
    gone = replace(this_process(), pid=2**22 + 1, started=1)
    stopped = Lease(nodes, file.id, drive.keys.lease, gone, map_epoch=file.epoch)

    async def acquire() -> None:
        await stopped.acquire()

    async def go_on() -> None:
        for call in (stopped.verify, stopped.renew, stopped.verify):
            with pytest.raises(DriveError):
                await call()

    trio.run(acquire)
    assert remove(large, "node0", "node1") == 0
    trio.run(go_on)
    assert add(large, "node8", "node9") == 0
    assert remove(large, "node2", "node3") == 0
    trio.run(go_on)
    require_whole(large)


def test_keys_that_are_changed_in_the_middle_of_a_change_stay_changed(large: SmallDrive) -> None:
    """Regression: the map was written with the key slots of its beginning. A new key was lost, and one that
    had been taken away opened the drive again."""
    drive = large.unlocked()
    folder, file = str(large.drive), drive.file

    async def change() -> None:
        nodes = drive_nodes.open_nodes(folder, file)
        lease = Lease(nodes, file.id, drive.keys.lease, this_process(), map_epoch=file.epoch)
        async with held(folder, file, nodes, lease) as drive_held:
            await drive_held.change(tuple(replace(node, zone="z") for node in file.nodes), change_keys)

    async def change_keys() -> None:
        seen = survey(folder)
        drive_file_copies.replace_copies(folder, seen, replace(seen.file, slots=seen.file.slots * 2))

    trio.run(change)
    now = survey(folder).file
    assert (now.epoch, now.nodes[0].zone, now.slots) == (file.epoch + 1, "z", file.slots * 2)


def test_only_one_vote_comes_or_goes_with_each_map(
    large: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So any majority of one map's voters and any of the next one's have a voter in common; at the end there
    are as many as in the beginning."""
    seen = [{entry.name for entry in compose.load_drive(str(large.drive)).nodes if entry.votes}]

    def write(folder: str, before: Survey, file: DriveFile) -> list[str]:
        seen.append({entry.name for entry in file.nodes if entry.votes})
        return real(folder, before, file)

    real = drive_file_copies.replace_copies
    monkeypatch.setattr(drive_file_copies, "replace_copies", write)
    assert remove(large, "node0", "node1") == 0
    assert add(large, "node8", "node9") == 0
    assert [len(one ^ other) for one, other in pairwise(seen)] == [0, 1, 1, 1, 1, 0, 0]
    assert len(seen[0]) == len(seen[-1]) == 5


def killed_at(made: SmallDrive, step: str, skip: bool, *arguments: str | Path) -> bool:
    """Run the command in a process of its own; whether the step was reached, and killed it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{step}=kill*{int(skip)}"}
    command = [sys.executable, "-c", "from tools.drivefs import main; main()", *map(str, arguments)]
    command += made.secret
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "step",
    [
        step if step in IN_EVERY_RUN else pytest.param(step, marks=pytest.mark.soak)
        for step in STEPS
        if step not in ADDING
    ],
)
def test_killed_at_each_step_of_a_removal(large: SmallDrive, step: str) -> None:
    """Killed there, the drive has its redundancy and can be read; the same command goes on."""
    packs, names = len(fragments(large)), busiest(large)
    assert killed_at(large, step, step != "node.drained", "node", "remove", *names, large.drive)
    require_redundant(large, packs)
    assert large.read() == large.content
    left = {entry.name for entry in survey(str(large.drive)).file.nodes} & set(names)
    assert not left or remove(large, *sorted(left)) == 0
    assert large.drivefs("node", "rebalance", large.drive, *large.secret) == 0
    assert {entry.name for entry in compose.load_drive(str(large.drive)).nodes}.isdisjoint(names)
    require_in_place(large)
    assert large.fsck("-n", "--data") == CLEAN


@pytest.mark.parametrize("step", [*ADDING, "drive-file.nodes-written", "rebalance.copied"])
def test_killed_at_each_step_of_an_addition(made: SmallDrive, step: str) -> None:
    """The same, when nodes come."""
    packs = len(fragments(made))
    new = (made.drive / "node6", made.drive / "node7")
    assert killed_at(made, step, False, "node", "add", *new, made.drive)
    require_redundant(made, packs)
    assert made.read() == made.content
    assert add(made, "node6", "node7") == 0
    require_in_place(made)
    assert made.fsck("-n", "--data") == CLEAN


def test_an_interrupt_is_told_in_one_line_and_the_lease_is_given_back(large: SmallDrive) -> None:
    program = (
        "import os, signal\n"
        "from backend.cluster import rebalance\n"
        "from backend.failpoints import OF_PROCESS\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it\n"
        "def stop(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "OF_PROCESS.arm(rebalance.BEFORE_COPY, stop)\n"
        "from tools.drivefs import main\n"
        "main()\n"
    )
    packs, names = len(fragments(large)), busiest(large)
    command = [sys.executable, "-c", program, "node", "remove", *names, str(large.drive), *large.secret]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (130, "drivefs: interrupted\n")
    assert '"held": false' in (large.drive / "node0" / "lease").read_text()
    require_redundant(large, packs)
    assert remove(large, *names) == 0
    require_whole(large)


@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("step", ["rebalance.copied", "rebalance.object-copied"])
def test_a_step_that_fails_is_told_and_done_again(large: SmallDrive, step: str, action: str) -> None:
    packs, names = len(fragments(large)), busiest(large)
    OF_PROCESS.arm(step, action, 2)
    with pytest.raises((OSError, DriveError)):
        remove(large, *names)
    OF_PROCESS.disarm_all()
    require_redundant(large, packs)
    assert large.read() == large.content
    assert remove(large, *names) == 0
    require_whole(large)


def test_a_full_node_ends_the_moving_with_its_name(
    large: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, packs, names = drive_nodes.open_nodes, len(fragments(large)), busiest(large)

    def full(folder: str, file: DriveFile) -> dict[str, Node]:
        nodes = real(folder, file)
        for name in nodes.keys() - set(names):
            monkeypatch.setattr(nodes[name], "put", refusing(name))
        return nodes

    with monkeypatch.context() as patch:
        patch.setattr(drive_nodes, "open_nodes", full)
        with pytest.raises(NoSpaceError, match=r"node\d: cannot write packs/"):
            remove(large, *names)
    require_redundant(large, packs)
    assert remove(large, *names) == 0
    require_whole(large)


def refusing(name: str) -> Callable[[str, object], Awaitable[None]]:
    async def put(key: str, _parts: object) -> None:
        raise NoSpaceError(f"{name}: cannot write {key}: the disk is full")

    return put


def test_one_that_is_to_go_may_stay_after_all(large: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rebalance, "run", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove(large, "node4")
    capsys.readouterr()
    assert large.drivefs("node", "list", large.drive) == 0
    assert "node4  ok, takes nothing new" in capsys.readouterr().out
    assert large.read() == large.content
    assert add(large, "node4") == 0
    assert add(large, "node4") == 0
    assert "is node4 already" in capsys.readouterr().out
    require_whole(large)


def damage(path: Path) -> None:
    """Change its last byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


async def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_damaged_and_doubled_fragments_of_a_node_that_goes(large: SmallDrive) -> None:
    """A damaged fragment is rebuilt instead of moved; of a double one the copy that must go goes."""
    name = fullest(large)
    damaged, double = sorted((large.drive / name).glob("packs/*/*"))[:2]
    damage(damaged)
    holders = set().union(*fragments(large)[bytes.fromhex(double.stem)].values())
    spare = next(f"node{number}" for number in range(8) if f"node{number}" not in holders)
    target = large.drive / spare / double.relative_to(large.drive / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(double.read_bytes())
    assert remove(large, name) == 0
    require_whole(large)


def test_a_node_whose_pack_cannot_be_made_whole_stays(large: SmallDrive) -> None:
    """Three fragments are damaged: what is left of them may hold blocks that can be read, so none goes."""
    name = fullest(large)
    pack_id, nodes = a_pack_of(large, name)
    for holder in sorted(nodes.values(), key=lambda holder: holder != name)[:3]:
        for path in (large.drive / holder).glob(f"packs/*/{pack_id.hex()}.*"):
            damage(path)
    with pytest.raises(ToolError, match=f"1 pack could not be put in order.*{pack_id.hex()}"):
        remove(large, name)
    assert list((large.drive / name).glob(f"packs/*/{pack_id.hex()}.*"))
    assert name in {entry.name for entry in compose.load_drive(str(large.drive)).nodes}


def test_fragments_of_an_unfinished_write_move_as_they_are(large: SmallDrive) -> None:
    name = fullest(large)
    pack_id, nodes = a_pack_of(large, name)
    kept = next(at for at, holder in nodes.items() if holder == name)
    for path in large.drive.glob(f"node*/packs/*/{pack_id.hex()}.*"):
        if path.suffix != f".{kept}":
            path.unlink()
    assert remove(large, name) == 0
    assert set(fragments(large)[pack_id]) == {kept}


def test_a_root_in_two_states_that_nothing_tells_apart_is_not_guessed(large: SmallDrive) -> None:
    key = next(f"roots/{path.name}" for path in large.drive.glob("node*/roots/*"))
    paths = sorted(large.drive.glob(f"node*/{key}"))
    drive = large.unlocked()
    copy = unframe(drive.file.id, key, paths[0].read_bytes())
    other = signed(drive.keys.object, drive.file.id, key, copy.ballot, copy.data + b"other")
    holder = paths[0].relative_to(large.drive).parts[0]
    for path in paths[2:]:
        path.unlink()
    paths[1].write_bytes(frame(drive.file.id, key, other))
    with pytest.raises(CorruptError, match="two states"):
        remove(large, holder)
    assert paths[0].exists()
    assert paths[1].exists()
