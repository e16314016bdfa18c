"""The drive's folder has a drive.toml from a backup, or of a machine that did not change the nodes, which
names one node only that is a node still: no command puts it over what that node says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import ConflictError, UnavailableError
from tests.small_drive import SmallDrive
from tools import compose
from tools.errors import ToolError
from tools.mkfs import mkfs

pytestmark = pytest.mark.logs_warnings


@pytest.fixture
def made(tmp_path: Path) -> SmallDrive:
    """Of nodes 0 and 1, which both voted, 1 was removed, and others came."""
    made = SmallDrive(tmp_path, {})
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    named = [part for number in (0, 1) for part in ("--node", str(node(made, number)))]
    assert mkfs(["-q", "--profile", "copies:2", *made.secret, *named, str(made.drive)]) == 0
    old = (made.drive / "drive.toml").read_bytes()
    new = [node(made, number) for number in (2, 3)]
    assert made.drivefs("node", "add", *new, made.drive, *made.secret) == 0
    assert made.drivefs("node", "remove", "node1", made.drive, *made.secret) == 0
    (made.drive / "drive.toml").write_bytes(old)
    return made


def node(made: SmallDrive, number: int) -> Path:
    """Not in the drive's folder: there, it would be found without being named."""
    return made.folder / f"disk{number}"


def copies(made: SmallDrive) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in made.folder.glob("*/drive.toml")}


@pytest.mark.parametrize(
    ("command", "error", "told"),
    [
        (["key", "add", "DRIVE", "KEY", "--new-recovery-file", "NEW"], ToolError, "is older than that of"),
        (["node", "replace", "DRIVE", "node1", "NEW", "KEY"], ConflictError, "rebuild-drive-file"),
        (["node", "recover", "DRIVE", "KEY"], ConflictError, "rebuild-drive-file"),
    ],
    ids=["key", "replace", "recover"],
)
def test_it_is_put_over_no_later_one(
    made: SmallDrive, command: list[str], error: type[Exception], told: str
) -> None:
    before = copies(made)
    given = {"DRIVE": [str(made.drive)], "NEW": [str(made.folder / "new")], "KEY": made.secret}
    words = [part for word in command for part in given.get(word, [word])]
    with pytest.raises(error, match=told):
        made.drivefs(*words)
    assert copies(made) == before


def test_fsck_puts_it_over_no_later_one(made: SmallDrive) -> None:
    before = copies(made)
    with pytest.raises(UnavailableError, match="the lease needs 2 of 2 nodes"):
        made.fsck("-y")
    assert copies(made) == before


def test_the_later_one_is_found_by_the_nodes_that_a_person_names(made: SmallDrive) -> None:
    (made.drive / "drive.toml").rename(made.folder / "aside")
    nodes = [node(made, number) for number in (0, 2, 3)]
    assert made.drivefs("rebuild-drive-file", *nodes, made.drive) == 0
    assert {entry.name for entry in compose.load_drive(str(made.drive)).nodes} == {"node0", "node2", "node3"}
    assert made.read() == made.content


def test_none_is_taken_from_a_node_that_was_away(made: SmallDrive) -> None:
    """Regression: the map that it had was put over that of all others."""
    own, late = made.drive / "drive.toml", node(made, 3) / "drive.toml"
    own.write_bytes((node(made, 0) / "drive.toml").read_bytes())
    before = late.read_bytes()
    new = [node(made, number) for number in (4, 5)]
    assert made.drivefs("node", "add", *new, made.drive, *made.secret) == 0
    late.write_bytes(before)
    own.unlink()
    seen = copies(made)
    with pytest.raises(ToolError, match=r"disk0, .*disk2 have a later drive\.toml"):
        made.drivefs("rebuild-drive-file", late.parent, made.drive)
    assert copies(made) == seen
    named = [node(made, number) for number in (0, 2, 3)]
    assert made.drivefs("rebuild-drive-file", *named, made.drive) == 0
    assert len(compose.load_drive(str(made.drive)).nodes) == 5


def test_one_node_that_makes_a_later_one_up_is_in_nobodys_way(made: SmallDrive) -> None:
    own, made_up = made.drive / "drive.toml", node(made, 3) / "drive.toml"
    text = (node(made, 0) / "drive.toml").read_text()
    own.write_text(text)
    made_up.write_text(text.replace("epoch = ", "epoch = 9"))
    assert compose.load_drive(str(made_up.parent)).epoch > compose.load_drive(str(made.drive)).epoch
    assert made.drivefs("key", "add", made.drive, *made.secret, "--new-recovery-file", made.folder / "r") == 0
    own.unlink()
    nodes = [node(made, number) for number in (0, 2, 3)]
    assert made.drivefs("rebuild-drive-file", *nodes, made.drive) == 0
    assert len(copies(made).values()) == 4
    assert len({*copies(made).values()}) == 1
