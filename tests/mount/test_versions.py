"""The past on real mounts: `.versions` against copies that were kept, programs beside and inside it, `asof=`,
and restore and clone as people use them."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.contents import KINDS, content
from tests.mount.conftest import NewDrive
from tests.mount.mounted import MountedDrive, differences, perform, run, succeed, wait_for_end

pytestmark = pytest.mark.mount

SHARED_OPTIONS = ("commit_interval=1h",)
"""Only the tests commit: a commit in the middle of a write is one more version."""

EDITS = 15
NESTED = 5
"""Folders inside the tree that are compared at each time, or a few more."""
FILES = 200
TIME_NAME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{6}Z(~\d+)?")
PAST_BIT = 1 << 63


class Editor:
    """Edits a tree at random, as people and programs do."""

    def __init__(self, tree: Path, files: int, seed: int) -> None:
        self.tree = tree
        self._random = random.Random(seed)
        self._count = 0
        self._files: list[Path] = []
        self._folders: list[Path] = []
        for number in range(files):
            folder = tree / f"d{number % 7}" / f"e{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"f{number}.txt").write_bytes(self._bytes())

    def _bytes(self) -> bytes:
        size, seed = self._random.choice((0, 10, 3000, 60_000)), self._random.randrange(1 << 32)
        return content(self._random.choice(KINDS), size, seed)

    def _look(self) -> None:
        """Walk once for all changes of an edit."""
        found = sorted(path for path in self.tree.rglob("*") if not path.is_symlink())
        self._folders = [self.tree, *(path for path in found if path.is_dir())]
        self._files = [path for path in found if path.is_file()]

    def _new(self) -> Path:
        self._count += 1
        return self._random.choice(self._folders) / f"new{self._count}"

    def edit(self, changes: int) -> None:
        self._look()
        for file in self._random.sample(self._files, changes):
            actions: list[Callable[[Path], object]] = [
                *(self._overwrite, self._append, self._replace, self._remove, self._move, self._link),
                *(self._chmod, self._truncate, self._make, self._make_folder, self._symlink),
            ]
            self._random.choice(actions)(file)
        if self._random.random() < 0.2:
            inner = [path for path in self._folders if len(path.relative_to(self.tree).parts) == 2]
            shutil.rmtree(self._random.choice(inner))

    def _overwrite(self, file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(self._random.randrange(5000))
            opened.write(self._bytes())

    def _append(self, file: Path) -> None:
        with file.open("ab") as opened:
            opened.write(self._bytes())

    def _replace(self, file: Path) -> None:
        temporary = file.with_name("temporary")
        temporary.write_bytes(self._bytes())
        temporary.replace(file)

    def _remove(self, file: Path) -> None:
        file.unlink()

    def _move(self, file: Path) -> None:
        file.rename(self._new())

    def _link(self, file: Path) -> None:
        self._new().hardlink_to(file)

    def _chmod(self, file: Path) -> None:
        file.chmod(self._random.choice((0o600, 0o644, 0o755)))

    def _truncate(self, file: Path) -> None:
        os.truncate(file, self._random.randrange(70_000))

    def _make(self, file: Path) -> None:
        self._new().write_bytes(self._bytes())

    def _make_folder(self, file: Path) -> None:
        self._new().mkdir()

    def _symlink(self, file: Path) -> None:
        self._new().symlink_to(file.name)


@dataclass(frozen=True)
class Edited:
    """A drive, mounted, whose folder `tree` was edited, and by name of the time a copy of what it was."""

    drive: MountedDrive
    copies: dict[str, Path]

    def wrong(self, tree: Path, step: int = 1) -> dict[str, str]:
        """The first time at which the past is not as the copy, and how; nothing if there is none. Of `step`
        times one is looked at."""
        for time_name, copy in [*self.copies.items()][::step]:
            if text := self.wrong_at(tree / ".versions" / time_name, copy):
                return {time_name: text}
        return {}

    @staticmethod
    def wrong_at(past: Path, copy: Path) -> str:
        return differences(copy, past)


def edited_drive(drive: MountedDrive, edits: int, files: int, changes: int, seed: int) -> Edited:
    drive.make()
    drive.mount()
    tree = drive.mountpoint / "tree"
    tree.mkdir()
    editor = Editor(tree, files, seed)
    copies: dict[str, Path] = {}
    for number in range(edits):
        editor.edit(changes)
        copy = drive.folder / f"copy{number}"
        earlier = [f"--link-dest={path}" for path in list(copies.values())[-1:]]
        # By checksum: size and whole seconds of the time do not tell apart what is edited this fast.
        run("rsync", "-aHAXc", *earlier, f"{tree}/", f"{copy}/")
        drive.sync()
        copies[os.readlink(tree / ".versions" / "latest")] = copy
    assert len(copies) == edits
    return Edited(drive, copies)


@pytest.fixture(scope="module")
def edited(module_drives: NewDrive) -> Edited:
    return edited_drive(module_drives(), EDITS, 60, 12, seed=7)


def check_all(edited: Edited) -> None:
    tree = edited.drive.mountpoint / "tree"
    assert edited.wrong(tree) == {}
    assert sorted(set(os.listdir(tree / ".versions")) & set(edited.copies)) == sorted(edited.copies)
    for time_name, copy in edited.copies.items():
        folders = sorted(path for path in copy.rglob("*") if path.is_dir())
        for inner in folders[:: max(6, len(folders) // NESTED)]:
            live = tree / inner.relative_to(copy)
            if live.is_dir() and (live / ".versions" / time_name).exists():
                assert differences(inner, live / ".versions" / time_name) == ""


def test_every_time_is_as_the_copy_that_was_kept(edited: Edited) -> None:
    check_all(edited)


def test_it_is_after_a_remount_and_from_an_empty_cache(edited: Edited) -> None:
    names = [*os.listdir(edited.drive.mountpoint / "tree/.versions")]
    inner = edited.drive.mountpoint / "tree/.versions" / next(iter(edited.copies))
    numbers = {path.relative_to(inner): path.lstat().st_ino for path in inner.rglob("*")}
    for wipe in (False, True):
        edited.drive.umount()
        if wipe:
            edited.drive.wipe_cache()
        edited.drive.mount()
        assert edited.wrong(edited.drive.mountpoint / "tree", 1 if wipe else 3) == {}
        assert [*os.listdir(edited.drive.mountpoint / "tree/.versions")] == names
        assert {path.relative_to(inner): path.lstat().st_ino for path in inner.rglob("*")} == numbers


def test_a_whole_mount_as_of_a_time_beside_the_live_one(edited: Edited) -> None:
    place = edited.drive.folder / "past"
    place.mkdir()
    time_name = [*edited.copies][EDITS // 2]
    succeed(edited.drive.try_mount(f"asof={time_name}", where=place))
    try:
        assert differences(edited.copies[time_name], place / "tree") == ""
        (edited.drive.mountpoint / "live").write_text("works")
        with pytest.raises(OSError, match="Read-only"):
            (place / "x").write_text("x")
        assert not (place / ".versions").exists()
        assert run("sh", "-c", "cd tree && pwd -P", cwd=place).strip() == str(place / "tree")
    finally:
        succeed(edited.drive.tool("umount.drivefs", place))
    place.rmdir()


def test_bad_times_for_a_mount_are_refused(edited: Edited) -> None:
    place = edited.drive.folder / "never"
    place.mkdir()
    for text in ("1999-12-31", "rubbish", "@999999999", "2099-01-01"):
        result = edited.drive.try_mount(f"asof={text}", where=place)
        assert result.returncode == 1, result.stderr
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
    assert os.listdir(place) == []


def test_past_numbers_are_distinct_and_high(edited: Edited) -> None:
    versions = edited.drive.mountpoint / "tree/.versions"
    numbers: dict[int, tuple[str, int]] = {}
    for time_name in [*edited.copies][:4]:
        for path in [versions / time_name, *(versions / time_name).rglob("*")]:
            found = path.lstat()
            assert found.st_ino >= PAST_BIT
            if path.is_dir():
                assert numbers.setdefault(found.st_ino, (str(path), 0)) == (str(path), 0)
            else:
                file = (time_name, found.st_nlink)
                assert numbers.setdefault(found.st_ino, file) == file


# Programs


@pytest.fixture
def lived_in(shared: MountedDrive, place: Path) -> Path:
    """A folder with a past, on the shared mount."""
    (place / "sub").mkdir()
    (place / "sub/f.txt").write_text("needle one\n")
    (place / "sub/gone.txt").write_text("needle gone\n")
    shared.sync()
    (place / "sub/f.txt").write_text("needle two\n")
    (place / "sub/gone.txt").unlink()
    shared.sync()
    return place


@pytest.fixture
def first_commit(shared: MountedDrive) -> None:
    """The drive has a commit before the test makes anything."""
    shared.sync()


def in_order(folder: Path) -> list[str]:
    """The names of times in the folder, the oldest first: of several in one second ~10 comes after ~9."""

    def moment(name: str) -> tuple[str, int]:
        second, _, rest = name.partition("~")
        return second.partition(".")[0], int(rest.partition(".")[0] or 1)

    return sorted(os.listdir(folder), key=moment)


def first_time(folder: Path) -> Path:
    return folder / ".versions" / in_order(folder / ".versions")[0]


def test_programs_never_enter_it(lived_in: Path) -> None:
    assert sorted(os.listdir(lived_in)) == ["sub"]
    assert run("find", ".", cwd=lived_in).split() == [".", "./sub", "./sub/f.txt"]
    assert run("grep", "-rh", "needle", ".", cwd=lived_in) == "needle two\n"
    assert run("sh", "-c", "tar -c . | tar -t", cwd=lived_in).split() == ["./", "./sub/", "./sub/f.txt"]
    assert len(run("du", "-a", ".", cwd=lived_in).splitlines()) == 3
    run("git", "init", "-q", ".", cwd=lived_in)
    assert run("git", "status", "--porcelain", cwd=lived_in) == "?? sub/\n"
    empty = lived_in.parent / f"{lived_in.name}-empty"
    empty.mkdir()
    run("rsync", "-a", "--delete", f"{empty}/", f"{lived_in}/")
    assert os.listdir(lived_in) == []
    assert (first_time(lived_in) / "sub/gone.txt").read_text() == "needle gone\n"
    run("rm", "-rf", lived_in)
    assert not lived_in.exists()


def test_programs_work_inside(lived_in: Path, tmp_path: Path) -> None:
    past = first_time(lived_in)
    assert run("find", ".", cwd=past).split() == [".", "./sub", "./sub/f.txt", "./sub/gone.txt"]
    assert run("grep", "-rh", "needle one", ".", cwd=past) == "needle one\n"
    assert len(run("du", "-a", ".", cwd=past).splitlines()) == 4
    run("sh", "-c", f"tar -c . | tar -x -C {tmp_path}", cwd=past)
    assert differences(past, tmp_path) == ""
    run("cp", "-a", past, tmp_path / "copy")
    assert differences(past, tmp_path / "copy") == ""
    (tmp_path / "sub/more").touch()
    run("rsync", "-a", "--delete", f"{past}/sub/", f"{tmp_path}/sub/")
    assert sorted(os.listdir(tmp_path / "sub")) == ["f.txt", "gone.txt"]
    places = run("sh", "-c", "cd sub && pwd -P && cd .. && pwd -P", cwd=past).split()
    assert places == [str(past / "sub"), str(past)]
    removed = subprocess.run(["rm", "-rf", past / "sub"], capture_output=True, text=True, check=False)
    assert removed.returncode == 1
    assert "Read-only file system" in removed.stderr
    assert (lived_in / "sub/f.txt").exists()


def test_git_works_inside(shared: MountedDrive, place: Path) -> None:
    run("git", "init", "-q", ".", cwd=place)
    (place / "f").write_text("1")
    run("git", "add", ".", cwd=place)
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    run("git", *author, "commit", "-qm", "one", cwd=place)
    shared.sync()
    then = os.readlink(place / ".versions/latest")
    (place / "f").write_text("2")
    past = place / ".versions" / then
    safe = ["-c", f"safe.directory={past}"]
    assert run("git", *safe, "status", "--porcelain", cwd=past) == ""
    assert run("git", "status", "--porcelain", cwd=place) == " M f\n"


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def test_nothing_inside_can_be_changed(lived_in: Path) -> None:
    past = first_time(lived_in)
    file, versions = past / "sub/f.txt", lived_in / ".versions"
    live = lived_in / "sub/f.txt"
    calls: list[Callable[[], object]] = [
        *(lambda: (past / "new").write_text("x"), lambda: (past / "new").mkdir(), lambda: file.unlink()),
        *(lambda: file.write_text("x"), lambda: os.truncate(file, 0), lambda: file.chmod(0o600)),
        *(lambda: os.open(file, os.O_RDWR), lambda: os.chown(file, 0, 0), lambda: os.utime(file)),
        *(lambda: file.rename(past / "x"), lambda: live.rename(past / "x")),
        *(lambda: file.rename(lived_in / "x"), lambda: (past / "l").symlink_to("x")),
        *(lambda: os.mkfifo(past / "p"), lambda: (past / "sub").rmdir()),
        *(lambda: os.setxattr(file, "user.x", b"1"), lambda: os.removexattr(file, "user.x")),
        *(lambda: (versions / "new").mkdir(), lambda: past.rmdir(), lambda: versions.chmod(0o777)),
        *(lambda: versions.rmdir(), lambda: versions.rename(lived_in / "x"), lambda: os.utime(versions)),
        *(lambda: (versions / "by-name/sub").mkdir(), lambda: (versions / "latest").unlink()),
    ]
    codes = [code_of(call) for call in calls]
    # To move or link between two folders of the past and now is refused by whoever looks first.
    # What root only may do is refused by the kernel first.
    others = set() if os.geteuid() == 0 else {"EACCES", "EPERM"}
    assert set(codes) <= {"EROFS", "EEXIST", "ENODATA"} | others, codes
    assert sum(code in {"EROFS"} | others for code in codes) >= len(codes) - 2, codes
    assert code_of(lambda: (lived_in / "h").hardlink_to(file)) in {"EROFS"} | others
    assert (lived_in / "sub/f.txt").read_text() == "needle two\n"


def test_the_name_is_taken(lived_in: Path) -> None:
    name = lived_in / ".versions"
    (lived_in / "other").touch()
    calls: list[Callable[[], object]] = [
        *(lambda: name.mkdir(), lambda: name.symlink_to("x"), lambda: os.mkfifo(name)),
        *(lambda: name.hardlink_to(lived_in / "other"), lambda: os.open(name, os.O_CREAT | os.O_EXCL)),
    ]
    assert [code_of(call) for call in calls] == ["EEXIST"] * len(calls)
    assert code_of(lambda: (lived_in / "sub").rename(name)) == "EEXIST"
    assert not (name / ".versions").exists()
    assert not (first_time(lived_in) / ".versions").exists()
    assert not (first_time(lived_in) / "sub/.versions").exists()


def test_a_folder_can_be_removed_while_its_past_is_looked_at(lived_in: Path) -> None:
    shutil.rmtree(lived_in / "sub")
    folder = lived_in / "empty"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=folder / ".versions") as process:
        folder.rmdir()
        process.terminate()
    assert not folder.exists()


@pytest.mark.usefixtures("first_commit")
def test_names_of_times(lived_in: Path) -> None:
    versions = lived_in / ".versions"
    times = in_order(versions)
    assert len(times) == 2
    assert all(map(TIME_NAME.fullmatch, times))
    assert os.readlink(versions / "latest") == times[-1]
    assert (versions / "latest/sub/f.txt").read_text() == "needle two\n"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert (versions / today / "sub/f.txt").read_text() == "needle two\n"
    assert (versions / "0m/sub/f.txt").read_text() == "needle two\n"
    for name in ("1999-01-01", "yesterday", "52w", "2099-01-01", "@999999", "x", "by-name/nope", "~2", "@1"):
        assert not (versions / name).exists(), name


def test_the_present_is_not_remembered_as_the_past(shared: MountedDrive, place: Path) -> None:
    seen = []
    for number in range(3):
        (place / "f").write_text(str(number))
        shared.sync()
        seen.append((place / ".versions/latest/f").read_text())
        seen.append((place / ".versions/0m/f").read_text())
        assert len(os.listdir(place / ".versions")) == number + 1
    assert seen == ["0", "0", "1", "1", "2", "2"]


def test_by_name(lived_in: Path, shared: MountedDrive) -> None:
    by_name = lived_in / "sub/.versions/by-name"
    assert sorted(os.listdir(by_name)) == ["f.txt", "gone.txt"]
    versions = in_order(by_name / "f.txt")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z(~\d+)?\.txt", name) for name in versions)
    assert [(by_name / "f.txt" / name).read_text() for name in versions] == ["needle one\n", "needle two\n"]
    replacing = lived_in / "sub/new"
    replacing.write_text("three\n")
    replacing.rename(lived_in / "sub/f.txt")
    shared.sync()
    newest = max(os.listdir(by_name / "f.txt"))
    assert (by_name / "f.txt" / newest).read_text() == "three\n"
    assert len(os.listdir(by_name / "f.txt")) == 3
    (only,) = os.listdir(by_name / "gone.txt")
    run("cp", "-p", by_name / "gone.txt" / only, lived_in / "sub/gone.txt")
    assert (lived_in / "sub/gone.txt").read_text() == "needle gone\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which takes root")
def test_past_permissions_count(shared: MountedDrive, place: Path) -> None:
    place.chmod(0o755)
    secret = place / "secret"
    secret.touch(0o600)  # in one step: a commit may come at any time
    secret.write_text("x")
    shared.sync()
    secret.chmod(0o644)
    shared.sync()
    past = first_time(place) / "secret"
    assert perform(12345, ("open", secret, os.O_RDONLY), ("open", past, os.O_RDONLY)) == ["ok", "EACCES"]
    place.chmod(0o700)
    assert perform(12345, ("stat", past), ("stat", place / ".versions")) == ["EACCES", "EACCES"]


@pytest.mark.parametrize("option", ["versions_dir=", "versions_dir=off", "versions_dir=none"])
def test_without_a_versions_dir(drive: MountedDrive, option: str) -> None:
    drive.mount(option)
    assert not (drive.mountpoint / ".versions").exists()
    (drive.mountpoint / ".versions").mkdir()
    assert os.listdir(drive.mountpoint) == [".versions"]


def test_another_name_for_it(drive: MountedDrive) -> None:
    drive.mount("versions_dir=.snap")
    (drive.mountpoint / ".versions").mkdir()
    (drive.mountpoint / "f").write_text("x")
    drive.sync()
    assert (drive.mountpoint / ".snap/latest/f").read_text() == "x"


def test_a_file_that_stays_open_makes_few_versions(drive: MountedDrive) -> None:
    """Commits every 100 ms, and an fsync as often: without `version_interval`, dozens of versions."""
    drive.mount("commit_interval=100ms,version_interval=2s")
    file = drive.mountpoint / "database"
    with file.open("wb", buffering=0) as opened:
        end = time.monotonic() + 5
        count = 0
        while time.monotonic() < end:
            os.pwrite(opened.fileno(), b"%d" % count, 0)
            os.fsync(opened.fileno())
            count += 1
            time.sleep(0.1)
    drive.sync()
    assert count > 20
    assert 2 <= len(os.listdir(drive.mountpoint / ".versions/by-name/database")) <= 5
    assert len(os.listdir(drive.mountpoint / ".versions")) <= 6
    assert (drive.mountpoint / ".versions/latest/database").read_bytes() == b"%d" % (count - 1)


# Commands


def test_log_diff_restore_and_clone(drive: MountedDrive) -> None:
    drive.mount()
    root = drive.mountpoint
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("one")
    (root / "d/e/hard").hardlink_to(root / "d/e/f")
    drive.sync()
    then = os.readlink(root / ".versions/latest")
    shutil.copytree(root / "d", drive.folder / "kept")
    (root / "d/e/f").write_text("two!")
    assert not (root / "d/e/g").exists()
    said = succeed(drive.tool("drivefs", "diff", root / "d", then))
    assert said == "M d/e/f\nM d/e/hard\n"
    log = json.loads(succeed(drive.tool("drivefs", "log", "--json", root / "d/e/f")))["entries"]
    assert [entry["what"] for entry in log] == [["content"], ["created"]]
    assert log[0]["size"] == 4
    assert log[0]["host"] == quote(socket.gethostname())
    assert socket.gethostname() in succeed(drive.tool("drivefs", "log", root / "d/e/f"))
    assert then in succeed(drive.tool("drivefs", "log", root / "d/e/f"))
    succeed(drive.tool("drivefs", "restore", root / "d/e/f", "--at", then))
    assert (root / "d/e/f").read_text() == "one"
    assert (root / "d/e/hard").read_text() == "two!"
    succeed(drive.tool("drivefs", "clone", root / "d/e/f", root / "d/e/g"))
    assert (root / "d/e/g").read_text() == "one"
    shutil.rmtree(root / "d")
    assert not (root / "d").exists()
    succeed(drive.tool("drivefs", "restore", root / "d", "--at", then))
    assert differences(root / ".versions" / then / "d", root / "d") == ""
    assert (root / "d/e/f").stat().st_nlink == 2
    refused = drive.tool("drivefs", "restore", root / "d", "--at", then)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert "Traceback" not in refused.stderr
    succeed(drive.tool("drivefs", "restore", root / "d", "--at", then, "--to", root / "copy"))
    assert sorted(os.listdir(root)) == ["copy", "d"]
    assert root.stat().st_nlink == 4
    drive.sync()
    happened = succeed(drive.tool("drivefs", "activity", root)).splitlines()
    assert happened[1] == "  added       copy/ (3 inside)"
    assert happened[-2].endswith(f"  {socket.gethostname()}")
    assert happened[-1] == "  added       d/ (3 inside)"
    commands: list[list[str | Path]] = [
        ["restore", root / "d/e/f", "--at", "1999-01-01"],
        ["restore", root / "nope", "--at", then],
        ["clone", root / "d", root / "copy"],
        ["clone", root / "d", drive.folder / "outside"],
        ["log", root / "nope"],
        ["log", drive.folder],
        ["diff", root, "rubbish"],
    ]
    for command in commands:
        result = drive.tool("drivefs", *command)
        assert result.returncode == 1, command
        assert result.stderr.count("\n") == 1, result.stderr


def test_who_asks_about_a_path_of_the_past_is_told_the_live_one(drive: MountedDrive) -> None:
    drive.mount("versions_dir=.snap shots")
    root = drive.mountpoint
    (root / "d").mkdir()
    (root / "d/f.txt").write_text("one")
    drive.sync()
    past = root / "d/.snap shots"
    (version,) = os.listdir(past / "by-name/f.txt")
    moment = os.readlink(past / "latest")
    cases = [
        (past, root / "d", ""),
        (past / "2h", root / "d", "2h"),
        (past / "latest/f.txt", root / "d/f.txt", moment),
        (past / "now/f.txt", root / "d/f.txt", "now"),
        (past / "by-name", root / "d", ""),
        (past / "by-name/f.txt" / version, root / "d/f.txt", moment),
    ]
    for path, live, when in cases:
        asked: list[list[str | Path]] = [
            ["log", path],
            ["activity", path],
            ["du", path],
            ["diff", path, "@1"],
            ["restore", path, "--at", "@1"],
            ["clone", path, root / "new"],
            ["keep", path],
            ["unkeep", path],
            ["watch", path],
            ["conflicts", "resolve", path, "--keep", "mine"],
        ]
        for command in asked:
            result = drive.tool("drivefs", *command)
            assert result.returncode == 1, command
            told = f"shows the past; name {live}" + (f" with the time {when}" if when else "")
            assert result.stderr == f"drivefs: {path}: {told}\n"
    assert not (root / "new").exists()


def test_times_as_people_write_them(drive: MountedDrive) -> None:
    drive.mount()
    file = drive.mountpoint / "f"
    file.write_text("one")
    drive.sync()
    file.write_text("two")
    drive.sync()
    for moment in ("now", "latest", "today", "0min", time.strftime("%Y-%m-%d %H:%M %z", time.localtime())):
        copy = drive.mountpoint / f"copy {moment}"
        succeed(drive.tool("drivefs", "restore", file, "--at", moment, "--to", copy))
        assert copy.read_text() == "two", moment
    wrong = drive.tool("drivefs", "restore", file, "--at", "last tuesday")
    assert "'last tuesday' is not a time; write for example 2026-11-20 19:46" in wrong.stderr
    none = drive.tool("drivefs", "restore", file, "--at", "1999-12-31")
    assert "the drive has no state of '1999-12-31': the oldest is 2" in none.stderr
    wrong = drive.tool("drivefs", "pin", drive.mountpoint, "last tuesday")
    assert "is not a time" in wrong.stderr


def test_a_clone_costs_no_room(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "big").write_bytes(os.urandom(8 << 20))
    drive.sync()
    before = drive.bytes_on_nodes()
    for number in range(5):
        succeed(drive.tool("drivefs", "clone", drive.mountpoint / "big", drive.mountpoint / f"big{number}"))
    drive.sync()
    assert drive.bytes_on_nodes() - before < 1 << 20
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    assert run("cmp", drive.mountpoint / "big", drive.mountpoint / "big4") == ""


def test_a_mount_that_is_killed_in_a_clone_has_all_of_it(drive: MountedDrive) -> None:
    seen = drive.folder / "seen"
    drive.environment = {
        "DRIVEFS_FAILPOINTS": f"ledger.batch-applying=kill*{FILES // 2}",
        "DRIVEFS_FAILPOINTS_SEEN": str(seen),
    }
    drive.mount()
    (drive.mountpoint / "d").mkdir()
    for number in range(FILES):
        (drive.mountpoint / f"d/{number}").touch()
    assert drive.process_id is not None
    failed = drive.tool("drivefs", "clone", drive.mountpoint / "d", drive.mountpoint / "copy")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1, failed.stderr
    wait_for_end(drive.process_id)
    assert seen.read_text() == "ledger.batch-applying\n"
    drive.environment = {}
    drive.remount()
    assert sorted(os.listdir(drive.mountpoint)) == ["copy", "d"]
    assert differences(drive.mountpoint / "d", drive.mountpoint / "copy") == ""


@pytest.fixture
def fresh(module_drives: NewDrive) -> MountedDrive:
    return module_drives()


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_soak_a_hundred_edits_of_a_large_tree(fresh: MountedDrive) -> None:
    """5,000 files, 100 edits: the root, nested folders; after a remount, and from an empty cache."""
    edited = edited_drive(fresh, 100, 5000, 60, seed=11)
    check_all(edited)
    test_it_is_after_a_remount_and_from_an_empty_cache(edited)
