"""`mkfs.drivefs`: what it makes, what it refuses, and what it leaves alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.cluster import drive_file
from backend.errors import FormatError, UnavailableError, UsageError, WrongKeyError
from backend.keys.key_slots import Secret
from backend.nodes import directory_place
from backend.nodes.node import Space
from tests.small_drive import held_lease
from tests.terminal import converse
from tools import compose, drive_nodes, errors
from tools.commands import doctor
from tools.errors import MKFS_CODES
from tools.mkfs import mkfs
from tools.secret_source import SecretSource


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


@pytest.fixture
def make(key: Path, tmp_path: Path) -> MakeDrive:
    return MakeDrive(key, tmp_path / "drive")


class MakeDrive:
    """mkfs on one folder with one key file."""

    def __init__(self, key: Path, folder: Path) -> None:
        self.key = key
        self.folder = folder

    def __call__(self, *arguments: str) -> int:
        return errors.call(
            "mkfs.drivefs", MKFS_CODES, mkfs, ["--key-file", str(self.key), *arguments, str(self.folder)]
        )


def test_a_new_drive_can_be_unlocked(make: MakeDrive) -> None:
    assert make() == 0
    file = compose.load_drive(str(make.folder))
    assert (file.profile, len(file.nodes), file.epoch) == ("4+2", 6, 1)
    assert drive_nodes.nodes_away(str(make.folder), file) == []
    drive = compose.unlock(str(make.folder), file, [Secret.key_file(make.key.read_bytes())])
    assert drive.id_text == file.id.hex()
    assert repr(drive.keys.block_id) not in repr(drive)
    with pytest.raises(WrongKeyError):
        compose.unlock(str(make.folder), file, [Secret.key_file(bytes(32))])


def test_every_node_has_a_copy_of_the_drive_file(make: MakeDrive) -> None:
    make()
    original = (make.folder / "drive.toml").read_bytes()
    assert [(make.folder / f"node{n}" / "drive.toml").read_bytes() for n in range(6)] == [original] * 6


def test_the_drive_file_holds_no_key(make: MakeDrive) -> None:
    make()
    text = (make.folder / "drive.toml").read_text()
    assert make.key.read_bytes().hex() not in text
    assert stat.S_IMODE((make.folder / "drive.toml").stat().st_mode) == 0o600


def test_profile_and_nodes(make: MakeDrive, tmp_path: Path) -> None:
    nodes = [str(tmp_path / "disks" / str(n)) for n in range(4)]
    assert make("--profile", "2+1", *(part for node in nodes for part in ("--node", node))) == 0
    file = compose.load_drive(str(make.folder))
    assert [node.place("/elsewhere").folder for node in file.nodes] == nodes
    assert not (make.folder / "node0").exists()


def test_nodes_inside_the_drive_move_with_it(make: MakeDrive, tmp_path: Path) -> None:
    make("--profile", "copies:2")
    moved = make.folder.rename(tmp_path / "moved")
    assert drive_nodes.nodes_away(str(moved), compose.load_drive(str(moved))) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "6"], "unknown profile"),
        (["--profile", "40+20"], "not possible"),
        (["--node", "/a", "--node", "/b"], "needs 6 nodes, but 2 are given"),
        (["--profile", "copies:2", "--node", "/a", "--node", "/a/"], "same folder"),
        (["--profile", "copies:2", "--node", "/a/b/c", "--node", "/a"], "/a/b/c: lies in /a"),
        (["--passphrase-file", "/x"], "exclude each other"),
        (["--frobnicate"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line_and_changes_nothing(
    make: MakeDrive, arguments: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(*arguments) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not make.folder.exists()


def test_an_existing_drive_is_refused(make: MakeDrive, capsys: pytest.CaptureFixture[str]) -> None:
    make()
    before = (make.folder / "drive.toml").read_bytes()
    assert make() == 1
    assert "there is a drive here already" in capsys.readouterr().err
    assert (make.folder / "drive.toml").read_bytes() == before


def test_a_folder_that_is_not_empty_needs_force(make: MakeDrive) -> None:
    make.folder.mkdir()
    (make.folder / "mine").write_text("mine")
    assert make() == 1
    assert make("--force") == 0
    assert (make.folder / "mine").read_text() == "mine"


def test_force_replaces_a_drive_that_is_not_in_use(make: MakeDrive) -> None:
    make()
    (make.folder / "node0" / "packs").mkdir()
    old = compose.load_drive(str(make.folder)).id
    assert make("--force") == 0
    file = compose.load_drive(str(make.folder))
    assert file.id != old
    assert not (make.folder / "node0" / "packs").exists()
    assert drive_nodes.nodes_away(str(make.folder), file) == []


def test_force_refuses_a_drive_that_is_in_use(make: MakeDrive, capsys: pytest.CaptureFixture[str]) -> None:
    make()
    (make.folder / "node2" / "lease").write_bytes(held_lease())
    before = (make.folder / "drive.toml").read_bytes()
    assert make("--force") == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert (make.folder / "drive.toml").read_bytes() == before
    (make.folder / "node2" / "lease").write_bytes(held_lease(held=False))
    assert make("--force") == 0


def test_a_drive_that_is_mounted_while_the_passphrase_is_asked_for_stays(
    make: MakeDrive, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("--profile", "copies:3")
    lease = make.folder / "node2" / "lease"
    answer = SecretSource.new_secret

    def mount_meanwhile(source: SecretSource) -> Secret:
        lease.write_bytes(held_lease())
        return answer(source)

    before = everything(tmp_path)
    monkeypatch.setattr(SecretSource, "new_secret", mount_meanwhile)
    assert make("--force", "--profile", "copies:3") == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    lease.unlink()
    assert everything(tmp_path) == before


def test_force_never_takes_another_drives_data(make: MakeDrive, tmp_path: Path) -> None:
    nodes = [part for n in range(2) for part in ("--node", str(tmp_path / f"n{n}"))]
    make("--profile", "copies:2", *nodes)
    (tmp_path / "n1" / "packs").mkdir()
    other = MakeDrive(make.key, tmp_path / "other")
    assert other("--force", "--profile", "copies:2", *nodes) == 1
    assert (tmp_path / "n1" / "packs").is_dir()
    assert drive_nodes.nodes_away(str(make.folder), compose.load_drive(str(make.folder))) == []


def everything(folder: Path) -> dict[Path, bytes | None]:
    """All files and folders in it."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("obstacle", "says"),
    [
        ("a file in the way", "is not a folder"),
        ("a foreign file", "is not empty"),
        ("another node", "is not empty"),
        ("another node around it", "lies in the node"),
        ("a folder that cannot be written", "cannot be read and written"),
        ("no folder for the recovery key", "no file for the recovery key"),
    ],
)
def test_what_force_refuses_costs_nothing(
    make: MakeDrive,
    tmp_path: Path,
    obstacle: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make("--profile", "copies:1")
    new, options = tmp_path / "new", list[str]()
    match obstacle:
        case "a file in the way":
            new.write_bytes(b"")
        case "a foreign file":
            new.mkdir()
            (new / "mine").write_bytes(b"")
        case "another node":
            new = make.folder / "node0"
            MakeDrive(make.key, tmp_path / "inner")("--profile", "copies:1")
            (tmp_path / "inner" / "node0").rename(new / "packs")
        case "another node around it":
            MakeDrive(make.key, tmp_path / "outer")("--profile", "copies:1")
            new = tmp_path / "outer" / "node0" / "deep"
            new.mkdir()
        case "a folder that cannot be written":
            new.mkdir()
            monkeypatch.setattr("os.access", lambda path, mode: path != str(new))
        case "no folder for the recovery key":
            options = ["--recovery-file", str(tmp_path / "absent" / "recovery")]
    before = everything(tmp_path)
    assert make("--force", "--profile", "copies:1", "--node", str(new), *options) == 1
    assert says in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "obstacle", ["a file in the way", "a foreign file", "a folder that cannot be written"]
)
def test_a_place_that_does_not_fit_leaves_nothing_on_the_others(
    make: MakeDrive, tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without --force: all places are looked at before the first is made a node."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    make.folder.mkdir()
    match obstacle:
        case "a file in the way":
            bad.write_bytes(b"")
        case "a foreign file":
            bad.mkdir()
            (bad / "mine").write_bytes(b"")
        case "a folder that cannot be written":
            bad.mkdir()
            monkeypatch.setattr("os.access", lambda path, mode: path != str(bad))
    before = everything(tmp_path)
    assert make("--profile", "copies:2", "--node", str(good), "--node", str(bad)) == 1
    assert everything(tmp_path) == before


def test_force_goes_on_after_an_interrupted_mkfs(make: MakeDrive) -> None:
    make()
    (make.folder / "drive.toml").unlink()
    assert make() == 1
    assert make("--force") == 0


def test_a_recovery_key_opens_the_drive(make: MakeDrive, tmp_path: Path) -> None:
    path = tmp_path / "recovery"
    assert make("--recovery-file", str(path)) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = compose.load_drive(str(make.folder))
    compose.unlock(str(make.folder), file, [Secret.recovery(path.read_text())])
    assert make("--force", "--recovery-file", str(path)) == 1, "an existing file is not overwritten"


def test_without_a_secret_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = errors.call("mkfs.drivefs", MKFS_CODES, mkfs, [str(tmp_path / "drive")])
    assert code == 1
    assert "no terminal to ask at" in capsys.readouterr().err
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize("source", ["file", "command", "environment"])
def test_where_a_passphrase_may_come_from(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    arguments = {
        "file": ["--passphrase-file", str(path)],
        "command": ["--passphrase-command", f"cat {path}"],
        "environment": [],
    }[source]
    if source == "environment":
        monkeypatch.setenv("DRIVEFS_PASSPHRASE_FILE", str(path))
    folder = str(tmp_path / "drive")
    assert mkfs(["--profile", "copies:1", *arguments, folder]) == 0
    compose.unlock(folder, compose.load_drive(folder), [Secret.passphrase("correct horse")])


def test_one_disk_is_told_in_one_line(make: MakeDrive, capsys: pytest.CaptureFixture[str]) -> None:
    make()
    said = capsys.readouterr().err
    assert "all nodes are on one disk" in said
    assert said.count("\n") == 1


def test_a_node_that_limits_the_drive_is_named_by_mkfs_and_doctor(
    make: MakeDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(path: str) -> Space:
        size = 12 << 20 if path.endswith("node5") else 60 << 20
        return Space(size, size)

    monkeypatch.setattr(directory_place, "space_of", small)
    make()
    line = (
        "node5 (12.0 MiB) is small for this drive: 47.5 MiB of data fit with all redundancy, 205.9 MiB would"
    )
    assert line in capsys.readouterr().err
    found = [finding for finding in doctor.examine(str(make.folder)) if line in finding.text]
    assert [finding.state for finding in found] == ["note"]


@pytest.mark.parametrize(
    ("profile", "away", "told"), [("4+2", 1, False), ("4+2", 2, True), ("copies:3", 2, True)]
)
def test_doctor_tells_when_nodes_are_enough_to_read_and_not_to_store(
    make: MakeDrive, capsys: pytest.CaptureFixture[str], profile: str, away: int, told: bool
) -> None:
    make("--profile", profile)
    assert "to store something new" in capsys.readouterr().out
    for number in range(away):
        (make.folder / f"node{number}").rename(make.folder / f"away{number}")
    found = [
        finding for finding in doctor.examine(str(make.folder)) if "nothing can be stored" in finding.text
    ]
    assert [finding.state for finding in found] == ["note"] * told


def test_too_many_nodes_away_are_named(make: MakeDrive) -> None:
    make("--profile", "2+1")
    folder, file = str(make.folder), compose.load_drive(str(make.folder))
    (make.folder / "node0").rename(make.folder / "gone")
    drive_nodes.require_enough_nodes(file, drive_nodes.nodes_away(folder, file))
    (make.folder / "node1" / "node.toml").write_bytes((make.folder / "node2" / "node.toml").read_bytes())
    away = drive_nodes.nodes_away(folder, file)
    assert [error.node for error in away] == ["node0", "node1"]
    with pytest.raises(UnavailableError, match=r"node0.*missing.*node1.*this drive's node2"):
        drive_nodes.require_enough_nodes(file, away)


def test_a_damaged_drive_file_is_one_line(make: MakeDrive) -> None:
    make()
    path = make.folder / drive_file.FILE_NAME
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FormatError, match=r"drive\.toml"):
        compose.load_drive(str(make.folder))


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\n\n"])
def test_what_editors_put_around_a_passphrase_is_no_part_of_it(
    tmp_path: Path, before: bytes, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(before + "pass phräse ".encode() + after)
    path.chmod(0o600)
    taken: list[str] = []
    monkeypatch.setattr(Secret, "passphrase", taken.append)
    SecretSource(passphrase_file=str(path)).new_secret()
    SecretSource(passphrase_command=f"cat {path}").new_secret()
    assert taken == ["pass phräse ", "pass phräse "]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"one\ntwo\n", "several lines"),
        (b"\none\n", "several lines"),
        ("one\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "one\n".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_file_that_holds_no_passphrase_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=f"{path}.*{named}"):
        SecretSource(passphrase_file=str(path)).secrets()


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_text("\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="empty"):
        mkfs(["--passphrase-file", str(path), str(tmp_path / "drive")])


def test_at_a_terminal_the_passphrase_is_asked_for_twice(tmp_path: Path) -> None:
    folder = str(tmp_path / "drive")
    code, said = converse(
        "tools.mkfs", ["--profile", "copies:1", folder], ["battery staple", "battery staple"]
    )
    assert code == 0, said
    assert "battery" not in said, "it is not echoed"
    file = compose.load_drive(folder)
    compose.unlock(folder, file, [Secret.passphrase("battery staple")])
    (printed,) = [line.strip() for line in said.splitlines() if line.strip().startswith("DRIVEFS-")]
    compose.unlock(folder, file, [Secret.recovery(printed)])


def test_an_empty_passphrase_is_not_asked_for_again(tmp_path: Path) -> None:
    code, said = converse("tools.mkfs", [str(tmp_path / "drive")], ["", ""])
    assert code == 1
    assert "empty" in said
    assert "Again" not in said


def test_two_different_passphrases_are_refused(tmp_path: Path) -> None:
    code, said = converse("tools.mkfs", [str(tmp_path / "drive")], ["one", "two"])
    assert code == 1
    assert "the two passphrases differ" in said
    assert not (tmp_path / "drive").exists()


def test_it_is_said_where_the_recovery_key_is(
    make: MakeDrive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recovery"
    make("--recovery-file", str(path))
    said = capsys.readouterr().out
    assert f"{path}: the recovery key" in said
    assert path.read_text().strip() not in said
    make("--force", "--quiet", "--recovery-file", str(tmp_path / "another"))
    assert capsys.readouterr().out == ""


def test_folders_that_other_machines_serve_get_no_vote(
    make: MakeDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"node0", "node3"}
    monkeypatch.setattr(
        "backend.nodes.file_systems.is_shared", lambda folder: os.path.basename(folder) in shared
    )
    assert make() == 0
    file = compose.load_drive(str(make.folder))
    assert {entry.name for entry in file.nodes if not entry.votes} == shared
    shared |= {"node1", "node2"}
    before = everything(make.folder)
    assert make("--force") == 1
    assert everything(make.folder) == before
    assert "3 nodes at least must be on a disk of this machine" in capsys.readouterr().err
