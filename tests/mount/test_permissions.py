"""Who may do what: modes, owners, sticky and set-group-ID folders, seen by processes of other users."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, perform

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as other users"),
]

ANNA, BEN = 40_001, 40_002
TEAM = 40_100


@pytest.fixture
def open_place(place: Path) -> Path:
    """A folder in which everybody may do everything."""
    place.chmod(0o777)
    return place


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_new_things_belong_to_who_makes_them(open_place: Path) -> None:
    made = perform(
        ANNA,
        ("mkdir", open_place / "folder", 0o750),
        ("mkfifo", open_place / "fifo", 0o604),
        ("symlink", "target", open_place / "link"),
        ("open", open_place / "file", os.O_CREAT | os.O_WRONLY, 0o640),
    )
    assert made == ["ok"] * 4
    assert owner(open_place / "folder") == (ANNA, ANNA, 0o750)
    assert owner(open_place / "fifo") == (ANNA, ANNA, 0o604)
    assert owner(open_place / "file") == (ANNA, ANNA, 0o640)
    assert owner(open_place / "link")[:2] == (ANNA, ANNA)


@pytest.mark.parametrize(
    ("mode", "group", "reading", "writing"),
    [
        (0o644, BEN, "ok", "EACCES"),
        (0o600, BEN, "EACCES", "EACCES"),
        (0o060, TEAM, "ok", "ok"),
        (0o606, TEAM, "EACCES", "EACCES"),
        (0o002, BEN, "EACCES", "ok"),
    ],
)
def test_modes_are_obeyed(open_place: Path, mode: int, group: int, reading: str, writing: str) -> None:
    path = open_place / "file"
    path.touch()
    os.chown(path, ANNA, TEAM)
    path.chmod(mode)
    done = perform(BEN, ("open", path, os.O_RDONLY), ("open", path, os.O_WRONLY), group=group)
    assert done == [reading, writing]


def test_a_folder_without_search_or_write(open_place: Path) -> None:
    closed, fixed = open_place / "closed", open_place / "fixed"
    for folder, mode in ((closed, 0o766), (fixed, 0o755)):
        folder.mkdir()
        (folder / "file").touch(0o666)
        folder.chmod(mode)
    done = perform(
        ANNA,
        ("stat", closed / "file"),
        ("listdir", closed),
        ("stat", fixed / "file"),
        ("unlink", fixed / "file"),
        ("mkdir", fixed / "new"),
        ("rename", fixed / "file", open_place / "taken"),
    )
    assert done == ["EACCES", "ok", "ok", "EACCES", "EACCES", "EACCES"]


def test_sticky_folders(open_place: Path) -> None:
    open_place.chmod(0o1777)
    path = open_place / "anna"
    assert perform(ANNA, ("open", path, os.O_CREAT | os.O_WRONLY, 0o666)) == ["ok"]
    assert perform(BEN, ("unlink", path), ("rename", path, open_place / "ben")) == ["EPERM", "EPERM"]
    assert perform(BEN, ("open", open_place / "ben", os.O_CREAT | os.O_WRONLY, 0o666)) == ["ok"]
    assert perform(BEN, ("rename", open_place / "ben", path)) == ["EPERM"]
    assert perform(ANNA, ("unlink", path)) == ["ok"]


def test_set_group_id_folders_hand_their_group_on(open_place: Path) -> None:
    os.chown(open_place, 0, TEAM)
    open_place.chmod(0o2777)
    made = perform(
        ANNA,
        ("mkdir", open_place / "folder", 0o755),
        ("open", open_place / "file", os.O_CREAT | os.O_WRONLY, 0o644),
        ("symlink", "x", open_place / "link"),
    )
    assert made == ["ok"] * 3
    assert owner(open_place / "folder") == (ANNA, TEAM, 0o2755)
    assert owner(open_place / "file") == (ANNA, TEAM, 0o644)
    assert owner(open_place / "link")[:2] == (ANNA, TEAM)


def test_only_owners_change_modes_owners_and_times(open_place: Path) -> None:
    path = open_place / "file"
    path.touch(0o666)
    path.chmod(0o666)
    os.chown(path, ANNA, ANNA)
    done = perform(
        BEN,
        ("chmod", path, 0o777),
        ("chown", path, BEN, -1),
        ("utime", path, [1, 1]),
        ("utime", path),
    )
    assert done == ["EPERM", "EPERM", "EPERM", "ok"]
    done = perform(
        ANNA, ("chmod", path, 0o600), ("chown", path, -1, TEAM), ("chown", path, BEN, -1), groups=(TEAM,)
    )
    assert done == ["ok", "ok", "EPERM"]
    assert owner(path) == (ANNA, TEAM, 0o600)


@pytest.mark.parametrize(
    ("user", "call"),
    [
        (BEN, ("truncate", "file", 1)),
        (BEN, ("open", "file", os.O_WRONLY | os.O_TRUNC)),
        (ANNA, ("chown", "file", -1, TEAM)),
    ],
)
def test_set_id_bits_go_when_others_change_the_file(
    open_place: Path, user: int, call: tuple[object, ...]
) -> None:
    set_id_file(open_place / "file")
    name, _, *rest = call
    assert perform(user, (name, open_place / "file", *rest), groups=(TEAM,)) == ["ok"]
    assert owner(open_place / "file")[2] == 0o777


def test_set_id_bits_go_when_others_write(open_place: Path) -> None:
    set_id_file(open_place / "file")
    source = open_place / "source"
    source.write_bytes(b"more")
    source.chmod(0o644)
    # The descriptors are the next free ones, 3 and 4.
    done = perform(
        BEN,
        ("open", source, os.O_RDONLY),
        ("open", open_place / "file", os.O_WRONLY),
        ("sendfile", 4, 3, 0, 4),
    )
    assert done == ["ok", "ok", "ok"]
    assert (open_place / "file").read_bytes() == b"more"
    assert owner(open_place / "file")[2] == 0o777


def set_id_file(path: Path) -> None:
    path.write_bytes(b"#!")
    os.chown(path, ANNA, TEAM)
    path.chmod(0o6777)


def test_trusted_attributes_are_hidden_from_others(open_place: Path) -> None:
    path = open_place / "file"
    path.touch()
    path.chmod(0o666)
    os.setxattr(path, "trusted.secret", b"x")
    assert perform(ANNA, ("getxattr", path, "trusted.secret"), ("listxattr", path)) == ["ENODATA", "ok"]
    assert "trusted.secret" in os.listxattr(path)


def test_without_allow_other_only_the_owner_looks(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "file").touch(0o666)
    assert perform(ANNA, ("stat", drive.mountpoint / "file")) == ["EACCES"]
