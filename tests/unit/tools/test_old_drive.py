"""tools.old_drive: when a drive counts as unused, and what `mkfs.drivefs --force` may remove."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from backend.cluster import DriveFile
from backend.errors import LeaseHeldError, NotFoundError, UnavailableError
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity
from backend.nodes.place import NodePlace
from tests.fake_s3 import FakeS3, Fault, failed, fake_s3
from tests.small_drive import held_lease
from tools import compose, old_drive
from tools.errors import ToolError
from tools.mkfs import mkfs

OTHERS = NodeIdentity("node0", bytes(range(16)), "zone0")
BUSY = failed(503, "SlowDown")


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


def made(folder: Path, profile: str) -> tuple[str, DriveFile]:
    """A new drive's folder, and its file."""
    key = folder / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    drive = str(folder / "drive")
    assert mkfs(["-q", "--profile", profile, "--key-file", str(key), drive]) == 0
    return drive, compose.load_drive(drive)


def make_unreadable(file: DriveFile, drive: str, names: Sequence[str]) -> None:
    """Every call there fails with ELOOP."""
    for entry in file.nodes:
        if entry.name in names:
            folder = Path(drive) / entry.name
            folder.rename(folder.with_name(f"{entry.name}-away"))
            folder.symlink_to(entry.name)


def remove(folder: Path, places: Sequence[NodePlace]) -> None:
    old_drive.remove(str(folder), old_drive.removable(str(folder), places))


@pytest.mark.parametrize(
    ("profile", "unread", "known"),
    [
        ("4+2", 2, True),
        ("4+2", 3, False),
        ("copies:2", 1, True),
        ("copies:2", 2, False),
        ("copies:1", 1, False),
    ],
)
@pytest.mark.parametrize("how", ["unreadable", "missing", "empty"])
def test_a_lease_that_was_not_read_is_not_free(
    tmp_path: Path, profile: str, unread: int, known: bool, how: str
) -> None:
    drive, file = made(tmp_path, profile)
    names = [entry.name for entry in file.nodes if entry.votes][:unread]
    make_unreadable(file, drive, names)
    for name in names if how != "unreadable" else ():
        (Path(drive) / name).unlink()
    for name in names if how == "empty" else ():
        (Path(drive) / name).mkdir()
    if known:
        old_drive.require_unused(drive, file)
        return
    with pytest.raises(
        UnavailableError, match=f"nobody can tell .* on {unread} of the .*{names[-1]}"
    ) as found:
        old_drive.require_unused(drive, file)
    assert list(found.value.nodes) == names


def test_one_record_of_a_holder_is_enough(tmp_path: Path) -> None:
    drive, file = made(tmp_path, "4+2")
    make_unreadable(file, drive, ["node0", "node1", "node3"])
    (tmp_path / "drive" / "node2" / "lease").write_bytes(held_lease())
    with pytest.raises(LeaseHeldError, match="in use by process"):
        old_drive.require_unused(drive, file)


def test_an_old_drive_of_which_nobody_can_tell_whether_it_is_in_use_stays(tmp_path: Path) -> None:
    drive, file = made(tmp_path, "copies:3")
    make_unreadable(file, drive, ["node0", "node1"])
    with pytest.raises(UnavailableError, match="nobody can tell"):
        remove(Path(drive), [DirectoryPlace(str(tmp_path / "elsewhere"))])
    assert compose.load_drive(drive) == file


def test_a_node_that_the_new_drive_does_not_need_may_be_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive, file = made(tmp_path, "copies:3")
    make_unreadable(file, drive, ["node1"])
    needed = [DirectoryPlace(str(tmp_path / "drive" / "node1"))]
    with pytest.raises(OSError, match="symbolic links"):
        remove(Path(drive), needed)
    assert compose.load_drive(drive) == file
    remove(Path(drive), [])
    assert f"{drive}/node1: the old drive's; it is not emptied" in capsys.readouterr().err
    assert list((tmp_path / "drive" / "node0").iterdir()) == []
    assert (tmp_path / "drive" / "node1-away" / "node.toml").exists()


def test_what_a_person_keeps_in_a_nodes_folder_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive, file = made(tmp_path, "copies:2")
    needed, spare = (entry.place(drive) for entry in file.nodes)
    photo = Path(str(needed), "photos", "a.jpg")
    photo.parent.mkdir()
    photo.write_bytes(b"mine")
    with pytest.raises(ToolError, match="node0: holds photos, which is not drivefs': move it away first"):
        remove(Path(drive), [needed, spare])
    assert compose.load_drive(drive) == file
    remove(Path(drive), [spare])
    assert "node0: the old drive's; it is not emptied: it holds photos" in capsys.readouterr().err
    assert photo.read_bytes() == b"mine"
    assert spare.read("node.toml", 4096) is None


def test_a_place_that_is_another_drives_by_now_is_not_emptied(tmp_path: Path) -> None:
    drive, file = made(tmp_path, "copies:2")
    again = file.nodes[1].place(drive)
    again.clear()
    again.initialise(OTHERS)
    remove(Path(drive), [file.nodes[0].place(drive)])
    assert again.identity("node0") == OTHERS
    assert file.nodes[0].place(drive).read("node.toml", 4096) is None


@pytest.mark.parametrize("after", range(6))
def test_a_removal_that_was_interrupted_goes_on(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive, file = made(tmp_path, "copies:2")
    places = [entry.place(drive) for entry in file.nodes]
    for place in places:
        trio.run(place.node(place.identity("any")).put, f"packs/ab/{'ab' * 16}.0", [b"x"])
    unlink, gone = os.unlink, list[str]()

    def unlink_some(path: str, *, dir_fd: int | None = None) -> None:
        if len(gone) == after:
            raise KeyboardInterrupt
        gone.append(path)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink_some)
        with pytest.raises(KeyboardInterrupt):
            remove(Path(drive), places)
    with pytest.raises(NotFoundError):
        compose.load_drive(drive)
    remove(Path(drive), places)
    assert [path for path in Path(drive).rglob("*") if path.is_file()] == []


def test_a_node_of_which_nobody_can_tell_whether_it_has_data_stays(server: FakeS3, tmp_path: Path) -> None:
    (tmp_path / "drive.toml").write_bytes(b"what is left of the old drive")
    empty, others = (
        place_at(server.node_url(name), "/", {"credentials": "env:FAKE"}) for name in ("empty", "others")
    )
    for place in (empty, others):
        place.initialise(OTHERS)
    server.objects["others/packs/ab/fragment"] = b"x"
    before = dict(server.objects)
    for asked, answers in (("/bucket", 3), ("others/node.toml", 1), ("others/lease", 1)):
        server.faults = [Fault("GET", asked, BUSY) for _ in range(answers)]
        with pytest.raises(OSError, match="SlowDown"):
            remove(tmp_path, [others, empty])
        assert server.objects == before
        assert (tmp_path / "drive.toml").exists()


def test_a_folder_that_cannot_be_looked_into_stays(tmp_path: Path) -> None:
    (tmp_path / "drive.toml").write_bytes(b"what is left of the old drive")
    place = DirectoryPlace(str(tmp_path / "node"))
    place.initialise(OTHERS)
    (tmp_path / "node" / "packs").symlink_to("packs")
    with pytest.raises(OSError, match="symbolic links"):
        remove(tmp_path, [place])
    assert place.identity("node0") == OTHERS
    assert (tmp_path / "drive.toml").exists()
