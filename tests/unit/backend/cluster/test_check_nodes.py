"""Who decides what a drive's `drive.toml` is, and what lies in the way on its nodes."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.cluster import check_nodes, check_places, drive_file, drive_file_copies
from backend.cluster.drive_file import DriveFile
from backend.commits import MAX_SIZE, MAX_STORED
from backend.nodes import DirectoryPlace, NodeEntry, Whereabouts
from backend.nodes import files as node_files
from backend.nodes.identity import NodeIdentity, encode_identity
from backend.system import patience
from backend.system.patience import ask
from tests.small_drive import SmallDrive, copy_of, make_empty_drive
from tools import drive_nodes
from tools.errors import call
from tools.fsck import FSCK_CODES, OPERATIONAL, fsck

NODES = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_empty_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    for folder in (whole.cache, whole.state):
        folder.mkdir(exist_ok=True)
    return copy_of(whole, tmp_path)


def another(file: DriveFile, evil: Path, fakes: int, epoch: int) -> DriveFile:
    """A drive file that names as many nodes as it likes, all inside of one, each with the same copy."""
    entries = tuple(NodeEntry(f"node{at}", str(evil / f"loot{at}"), "disk0") for at in range(fakes))
    other = replace(file, nodes=entries or file.nodes, profile="copies:1", name="owned", epoch=epoch)
    for entry in entries:
        os.makedirs(entry.url, exist_ok=True)
        identity = NodeIdentity(entry.name, file.id, "disk0")
        Path(entry.url, "node.toml").write_bytes(encode_identity(identity))
        drive_file.save(os.path.join(entry.url, "drive.toml"), other)
    return other


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hostile=st.sets(st.integers(0, NODES - 1), min_size=1, max_size=2),
    fakes=st.integers(0, 30),
    epoch=st.integers(1, 2**63 - 1),
    own=st.sampled_from(["right", "lost", "damaged"]),
)
def test_nodes_cannot_outvote_the_others_about_the_drive_file(
    made: SmallDrive, hostile: set[int], fakes: int, epoch: int, own: str
) -> None:
    path = made.drive / "drive.toml"
    right = drive_file.load(str(made.drive / "node0" / "drive.toml"))
    right_bytes = drive_file.encode(right)
    places = [made.drive / f"node{number}" for number in range(NODES)]
    try:
        for number in hostile:
            drive_file.save(str(places[number] / "drive.toml"), another(right, places[number], fakes, epoch))
        path.write_bytes(right_bytes if own == "right" else b"[[")
        if own == "lost":
            path.unlink()
        found = check_nodes.survey(str(made.drive))
        assert found.file == right
        wrong = {str(places[number]) for number in hostile} | ({str(made.drive)} if own != "right" else set())
        assert {str(place) for place, _ in found.wrong} == wrong
    finally:
        for place in (made.drive, *places):
            (place / "drive.toml").write_bytes(right_bytes)


def put_there(kind: str, place: Path, outside: Path) -> None:
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
        (place / "theirs").write_bytes(b"theirs")
    else:
        place.write_bytes(b"theirs")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "file"])
@pytest.mark.parametrize(
    "path",
    ["packs", "packs/ab", "packs/ab/x.0", "commits", "roots", "lease", ".lock", ".ballast", "drive.toml"],
)
def test_what_is_in_the_way_is_found_and_moved_aside(
    made: SmallDrive, tmp_path: Path, path: str, kind: str
) -> None:
    node, outside = made.drive / "node5", tmp_path / "outside"
    outside.mkdir()
    place = node / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(tmp_path / "as it was")
    put_there(kind, place, outside)
    belongs = "folder" if path in ("packs", "packs/ab", "commits", "roots") else "file"
    expected = [] if kind == belongs else [path]
    assert check_places.in_the_way(str(node)) == expected
    for found in expected:
        aside = node / check_places.move_aside(str(node), found)
        assert aside.is_symlink() or aside.exists()
        assert not place.exists()
        if kind == "folder":
            assert (aside / "theirs").read_bytes() == b"theirs"
    assert check_places.in_the_way(str(node)) == []
    assert list(outside.iterdir()) == []


def test_who_does_not_answer_is_missing() -> None:
    let_go = threading.Event()
    begun = time.monotonic()
    found = ask({"quick": lambda: True, "silent": lambda: let_go.wait(60)}, 0.2)
    assert found == {"quick": True}
    assert time.monotonic() - begun < 30
    let_go.set()


def test_an_error_is_the_callers() -> None:
    def fail() -> int:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        ask({"one": fail, "two": lambda: 1})


def test_a_node_that_hangs_is_away_and_holds_nobody_up(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dead server does it: the first system call there does not return."""
    let_go, real = threading.Event(), node_files.read_at_most

    def hang(root: str, key: str, limit: int) -> bytes:
        if root.endswith("node5"):
            let_go.wait(60)
        return real(root, key, limit)

    monkeypatch.setattr(node_files, "read_at_most", hang)
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    folder = str(made.drive)
    begun = time.monotonic()
    file = check_nodes.survey(folder).file
    assert [error.node for error in drive_nodes.nodes_away(folder, file)] == ["node5"]
    assert list(check_nodes.wrong_identities(folder, file)) == []
    (line,) = drive_file_copies.write_copies(folder, file)
    assert line.startswith("node5: not there")
    assert time.monotonic() - begun < 30
    let_go.set()


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The places that are asked where they are, each as often as it is."""
    asked, real = Counter[str](), DirectoryPlace.whereabouts

    def counting(place: DirectoryPlace) -> Whereabouts | None:
        asked[str(place)] += 1
        return real(place)

    monkeypatch.setattr(DirectoryPlace, "whereabouts", counting)
    return asked


@pytest.mark.parametrize("own", ["right", "lost", "older"])
def test_a_survey_asks_each_place_once(made: SmallDrive, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    """Also of a drive file that names the nodes elsewhere than most copies do: one that hangs costs its
    patience once."""
    file, path = drive_file.load(str(made.drive / "drive.toml")), made.drive / "drive.toml"
    (made.drive / "node5").rename(made.drive / "elsewhere")
    moved = (*file.nodes[:5], replace(file.nodes[5], url=str(made.drive / "elsewhere")))
    new = replace(file, nodes=moved, epoch=file.epoch + 1)
    for entry in new.nodes:
        drive_file.save(os.path.join(str(entry.place(str(made.drive))), "drive.toml"), new)
    drive_file.save(str(path), file if own == "older" else new)
    if own == "lost":
        path.unlink()
    asked = counted(monkeypatch)
    seen = check_nodes.survey(str(made.drive))
    assert seen.file == new
    assert {str(place) for place in seen.copies} == {
        str(made.drive),
        *(str(entry.place(str(made.drive))) for entry in moved),
    }
    assert [str(place) for place, _ in seen.wrong] == ([] if own == "right" else [str(made.drive)])
    assert set(asked.values()) == {1}


def test_who_looks_for_wrong_identities_asks_each_node_once_where_it_is(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made.drive / "node1" / "node.toml").unlink()
    (made.drive / "node2").rename(made.drive / "away")
    file, asked = drive_file.load(str(made.drive / "drive.toml")), counted(monkeypatch)
    wrong = list(check_nodes.wrong_identities(str(made.drive), file))
    assert [(each.entry.name, each.is_ours) for each in wrong] == [("node1", True)]
    assert asked == dict.fromkeys((str(entry.place(str(made.drive))) for entry in file.nodes), 1)


def test_a_drive_whose_disk_is_slow_is_not_said_to_be_none(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go, real = threading.Event(), DirectoryPlace.read

    def late(place: DirectoryPlace, name: str, limit: int) -> bytes | None:
        if threading.current_thread() is not threading.main_thread():
            let_go.wait(60)
        return real(place, name, limit)

    monkeypatch.setattr(DirectoryPlace, "read", late)
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    assert call("fsck.drivefs", FSCK_CODES, fsck, ["-n", *made.where(), str(made.drive)]) == OPERATIONAL
    said = capsys.readouterr().err
    assert all(f"{made.drive / name}" in said for name in ("node0", "node5"))
    assert "do not answer" in said
    assert "only busy, try again" in said
    let_go.set()


@pytest.mark.parametrize(
    ("path", "largest"),
    [("lease", MAX_SIZE), ("commits/000000000000002a", MAX_STORED), ("roots/snapshot", MAX_STORED)],
)
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_file_that_is_larger_than_any_can_be_is_in_the_way(
    made: SmallDrive, path: str, largest: int, beyond: int
) -> None:
    place = made.drive / "node5" / path
    before = place.read_bytes() if place.exists() else None
    place.parent.mkdir(exist_ok=True)
    try:
        with open(place, "wb") as file:
            file.truncate(largest + beyond)
        assert check_places.in_the_way(str(made.drive / "node5")) == [path] * beyond
    finally:
        place.unlink()
        if before is not None:
            place.write_bytes(before)


def test_an_identity_that_cannot_be_read_is_not_written_over(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say that the folder is another node."""
    real = node_files.read_at_most

    def failing(root: str, key: str, limit: int) -> bytes:
        if root.endswith("node2") and key == "node.toml":
            raise OSError(errno.EIO, "Input/output error", key)
        return real(root, key, limit)

    file = drive_file.load(str(made.drive / "drive.toml"))
    monkeypatch.setattr(node_files, "read_at_most", failing)
    (wrong,) = check_nodes.wrong_identities(str(made.drive), file)
    assert not wrong.is_ours
    assert wrong.text == (
        f"node2: cannot read {made.drive}/node2/node.toml: Input/output error; if it stays so, remove it and "
        "mend again"
    )
