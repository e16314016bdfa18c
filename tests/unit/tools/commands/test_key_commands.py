"""`drivefs key`: slots added, changed, removed, on all copies of the drive file; refusals change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ConflictError, UsageError, WrongKeyError
from backend.keys.key_slots import Secret
from backend.keys.recovery_key import parse_recovery_key
from tests.small_drive import CLEAN, SmallDrive, copy_of, make_small_drive
from tools import compose
from tools.errors import ToolError
from tools.secret_source import SecretSource


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(whole, tmp_path)


def secret_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return path


def copies(made: SmallDrive) -> set[bytes]:
    return {path.read_bytes() for path in [made.drive / "drive.toml", *made.drive.glob("node*/drive.toml")]}


def opens(made: SmallDrive, secret: Secret) -> bool:
    try:
        compose.unlock(str(made.drive), compose.load_drive(str(made.drive)), [secret])
    except WrongKeyError:
        return False
    return True


def test_a_passphrase_is_added_changed_and_removed(
    made: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    key = made.folder / "key"
    first, second = secret_file(made.folder, "p1", "correct horse"), secret_file(made.folder, "p2", "battery")
    assert made.drivefs("key", "add", made.drive, "--key-file", key, "--new-passphrase-file", first) == 0
    assert opens(made, Secret.passphrase("correct horse"))
    assert opens(made, Secret.key_file(key.read_bytes()))
    assert len(copies(made)) == 1
    change = ["--passphrase-file", str(first), "--new-passphrase-file", str(second)]
    assert made.drivefs("key", "change", made.drive, *change) == 0
    assert not opens(made, Secret.passphrase("correct horse"))
    assert opens(made, Secret.passphrase("battery"))
    capsys.readouterr()
    assert made.drivefs("key", "list", made.drive) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["1", "key-file"],
        ["2", "passphrase"],
    ]
    assert made.drivefs("key", "remove", made.drive, "1", "--passphrase-file", second) == 0
    assert not opens(made, Secret.key_file(key.read_bytes()))
    assert len(copies(made)) == 1
    assert made.read_with(Secret.passphrase("battery")) == made.content


def test_several_slots_are_removed_by_the_numbers_that_were_listed(
    made: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number is a place in the list: who removed one slot after the other took a wrong one away, and was
    not told that the others had new numbers."""
    key, words = made.folder / "key", [f"passphrase {number}" for number in range(2, 6)]
    for number, passphrase in enumerate(words, 2):
        new = secret_file(made.folder, f"p{number}", passphrase)
        assert made.drivefs("key", "add", made.drive, "--key-file", key, "--new-passphrase-file", new) == 0
    capsys.readouterr()
    assert made.drivefs("key", "remove", made.drive, "2", "4", "--key-file", key) == 0
    assert "key slots 2, 4 removed; slot 3 is 2 now, 5 is 3 now\n" in capsys.readouterr().out
    assert [opens(made, Secret.passphrase(passphrase)) for passphrase in words] == [False, True, False, True]
    assert made.drivefs("key", "remove", made.drive, "3", "--key-file", key) == 0
    assert capsys.readouterr().out.endswith(": key slot 3 removed\n")
    with pytest.raises(UsageError, match="last key slot"):
        made.drivefs("key", "remove", made.drive, "1", "2", "--key-file", key)


def test_a_recovery_key_is_added_and_opens(made: SmallDrive) -> None:
    path, key = made.folder / "recovery", made.folder / "key"
    assert made.drivefs("key", "add", made.drive, "--key-file", key, "--new-recovery-file", path) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert parse_recovery_key(path.read_text())
    assert opens(made, Secret.recovery(path.read_text()))
    new = secret_file(made.folder, "new", "forgotten no more")
    assert (
        made.drivefs("key", "add", made.drive, "--passphrase-file", path, "--new-passphrase-file", new) == 0
    )
    assert opens(made, Secret.passphrase("forgotten no more"))
    assert made.fsck("-n") == CLEAN


def test_what_is_refused_changes_nothing(made: SmallDrive) -> None:
    key, before = made.folder / "key", copies(made)
    other = made.folder / "other"
    other.touch(mode=0o600)
    other.write_bytes(bytes(range(32)))
    with pytest.raises(UsageError, match="last key slot"):
        made.drivefs("key", "remove", made.drive, "1", "--key-file", key)
    with pytest.raises(UsageError, match="no key slot 7"):
        made.drivefs("key", "remove", made.drive, "7", "--key-file", key)
    with pytest.raises(WrongKeyError):
        made.drivefs("key", "add", made.drive, "--key-file", other, "--new-key-file", other)
    assert copies(made) == before
    assert made.drivefs("key", "add", made.drive, "--key-file", key, "--new-key-file", other) == 0
    before = copies(made)
    with pytest.raises(WrongKeyError, match="one that stays"):
        made.drivefs("key", "remove", made.drive, "1", "--key-file", key)
    assert copies(made) == before


@pytest.mark.logs_warnings
@pytest.mark.parametrize("meanwhile", ["a node is added", "a key is added"])
def test_what_was_changed_while_the_passphrase_was_asked_for_stays(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    answer, passphrase = SecretSource.new_secret, secret_file(made.folder, "p", "correct horse")
    add = ["key", "add", str(made.drive), *made.secret, "--new-passphrase-file", str(passphrase)]

    def change_meanwhile(source: SecretSource) -> Secret:
        monkeypatch.setattr(SecretSource, "new_secret", answer)
        node = ["node", "add", str(made.folder / "new"), str(made.drive), *made.secret]
        assert made.drivefs(*(node if meanwhile == "a node is added" else add)) == 0
        changed.append((made.drive / "drive.toml").read_bytes())
        return answer(source)

    changed = list[bytes]()
    monkeypatch.setattr(SecretSource, "new_secret", change_meanwhile)
    with pytest.raises(ConflictError, match="changed just now"):
        made.drivefs(*add)
    assert (made.drive / "drive.toml").read_bytes() == changed[0]
    assert made.fsck("-n") == CLEAN


def test_an_interrupted_change_is_taken_back_or_finished_by_fsck(made: SmallDrive) -> None:
    """The nodes are written first: whatever most of them say is in force."""
    key, other = made.folder / "key", made.folder / "other"
    other.touch(mode=0o600)
    other.write_bytes(bytes(range(32)))
    old = (made.drive / "drive.toml").read_bytes()
    assert made.drivefs("key", "add", made.drive, "--key-file", key, "--new-key-file", other) == 0
    new = (made.drive / "drive.toml").read_bytes()
    for number in range(2, 6):
        (made.drive / f"node{number}" / "drive.toml").write_bytes(old)
    (made.drive / "drive.toml").write_bytes(old)
    assert made.fsck("-y") == 1
    assert copies(made) == {old}
    for number in range(5):
        (made.drive / f"node{number}" / "drive.toml").write_bytes(new)
    with pytest.raises(ToolError, match="fsck"):
        made.drivefs("key", "add", made.drive, "--key-file", key, "--new-key-file", other)
    assert made.fsck("-y") == 1
    assert copies(made) == {new}
