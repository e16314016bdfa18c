"""What the commands share: sizes and times, mount tables, the background, last words and exit codes."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import LeaseHeldError, UsageError
from tools import daemon, errors, mounts, places
from tools.errors import COMMAND_CODES, MKFS_CODES, MOUNT_CODES, MissingSystemError, ReportedError, ToolError
from tools.logs import JsonFormatter
from tools.quantities import format_size, parse_duration, parse_size

MOUNTINFO = (
    "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    "90 22 0:47 / /mnt/a\\040b rw,nosuid shared:5 master:1 - fuse.drivefs /srv/drive\\011x rw,user_id=0\n"
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("64M", 64 << 20), ("1G", 1 << 30), ("1.5k", 1536), ("2TiB", 2 << 40), ("10KB", 10240)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1Q", "0x10", "1 2", "nan", "1" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("5s", 5), ("500ms", 0.5), ("2m", 120), ("1h", 3600)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "inf"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_sizes_for_people() -> None:
    assert [format_size(size) for size in (0, 1023, 1024, 1 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 GiB",
        "3.0 PiB",
    ]


@given(st.integers(0, 2**60))
def test_a_size_for_people_is_near(size: int) -> None:
    text = format_size(size)
    assert abs(parse_size(text.replace(" ", "")) - size) <= size * 0.06 if "P" not in text else size >= 2**50


def test_the_mount_table_is_unescaped() -> None:
    assert mounts.parse(MOUNTINFO)[1] == mounts.Mount("/mnt/a b", "fuse.drivefs", "/srv/drive\tx")


def test_the_root_is_mounted_and_a_folder_is_not(tmp_path: Path) -> None:
    assert mounts.find("/") is not None
    assert mounts.find(str(tmp_path)) is None


def test_a_link_to_a_mountpoint_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    found = mounts.find(str(tmp_path / "link"))
    assert found is not None
    assert found.mountpoint == "/proc"


@pytest.mark.parametrize(
    ("error", "mount", "mkfs", "command"),
    [
        (UsageError("x"), 1, 1, 2),
        (PermissionError(errno.EACCES, "no"), 1, 1, 1),
        (MissingSystemError("x"), 2, 1, 1),
        (LeaseHeldError("x"), 32, 1, 1),
        (OSError(errno.EIO, "x"), 32, 1, 1),
        (ReportedError("x", 7), 7, 7, 7),
        (KeyboardInterrupt(), 8, 1, 130),
        (ValueError("x"), 4, 4, 4),
    ],
)
def test_exit_codes(error: BaseException, mount: int, mkfs: int, command: int) -> None:
    assert errors.exit_code(error, MOUNT_CODES) == mount
    assert errors.exit_code(error, MKFS_CODES) == mkfs
    assert errors.exit_code(error, COMMAND_CODES) == command


def raising(error: BaseException) -> int:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return errors.call("tool", MOUNT_CODES, main, [])


def test_a_foreseen_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(ToolError("all\nis not well")) == 32
    assert capsys.readouterr().err == "tool: all is not well\n"


def test_a_system_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere")) == 32
    assert capsys.readouterr().err == "tool: /nowhere: No such file or directory\n"


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(ZeroDivisionError("by zero")) == 4
    assert "Traceback" in capsys.readouterr().err


class TestDaemon:
    """`daemon.start`: real forks."""

    def test_the_parent_returns_when_the_child_is_ready(self, tmp_path: Path) -> None:
        """The child waits for the parent, so a parent that waited for the child's end would hang."""
        questions, answers = os.pipe(), os.pipe()

        def serve(ready: daemon.Ready) -> None:
            ready()
            os.close(questions[1])
            os.read(questions[0], 1)
            os.write(answers[1], json.dumps([os.getcwd(), os.getsid(0), os.getpid()]).encode())

        daemon.start(serve, MOUNT_CODES)
        os.close(answers[1])
        os.write(questions[1], b"?")
        folder, session, process = json.loads(os.read(answers[0], 1000))
        assert os.read(answers[0], 1) == b"", "the child has not ended"
        for descriptor in (*questions, answers[0]):
            os.close(descriptor)
        assert folder == "/"
        assert session not in (os.getsid(0), process)

    def test_the_childs_failure_is_the_parents(self) -> None:
        def serve(ready: daemon.Ready) -> None:
            raise LeaseHeldError("mounted by another")

        with pytest.raises(ReportedError, match="mounted by another") as caught:
            daemon.start(serve, MOUNT_CODES)
        assert caught.value.code == 32

    def test_a_child_that_dies_without_a_word_is_a_failure(self) -> None:
        def serve(ready: daemon.Ready) -> None:
            os._exit(0)

        with pytest.raises(ReportedError, match="without a word"):
            daemon.start(serve, MOUNT_CODES)


class TestPlaces:
    def test_the_cache_folder_that_was_asked_for_wins(self) -> None:
        environment = {"DRIVEFS_CACHE_DIR": "/env", "HOME": "/home/me"}
        assert places.cache_folder("id", "/asked", environment) == "/asked/id"
        assert places.cache_folder("id", None, environment) == "/env/id"

    def test_the_default_cache_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert places.cache_folder("id", None, {}) == "/var/cache/drivefs/id"
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        assert places.cache_folder("id", None, {"HOME": "/h"}) == "/h/.cache/drivefs/id"
        assert places.cache_folder("id", None, {"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == "/x/drivefs/id"
        assert places.cache_folder("id", None, {}).endswith("/.cache/drivefs/id")

    def test_the_cache_folder_is_private(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        places.make_private_folder(str(folder))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o755)
        places.make_private_folder(str(folder))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_file_in_place_of_the_cache_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ToolError, match="cache folder"):
            places.make_private_folder(str(tmp_path / "file" / "cache"))

    def test_mountpoints_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ToolError, match="does not exist"):
            places.free_mountpoint(str(tmp_path / "none"))
        with pytest.raises(ToolError, match="not a folder"):
            places.free_mountpoint(str(tmp_path / "file"))
        places.free_mountpoint(str(tmp_path))

    def test_a_mount_must_not_cover_what_it_needs(self, tmp_path: Path) -> None:
        (tmp_path / "drive" / "node0").mkdir(parents=True)
        with pytest.raises(ToolError, match="cover"):
            places.check_not_covered(str(tmp_path / "drive"), [str(tmp_path / "drive" / "node0")])
        places.check_not_covered(str(tmp_path / "drive" / "mnt"), [str(tmp_path / "drive" / "node0")])

    def test_fuse_conf(self, tmp_path: Path) -> None:
        conf = tmp_path / "fuse.conf"
        conf.write_text("#user_allow_other\n")
        assert not places.user_allow_other(str(conf))
        conf.write_text("user_allow_other \n")
        assert places.user_allow_other(str(conf))


def test_a_log_line_is_json() -> None:
    record = logging.LogRecord("a.b", logging.INFO, "f", 1, "said %s", ("\n",), None)
    record.created = 0.25
    assert json.loads(JsonFormatter().format(record)) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "info",
        "logger": "a.b",
        "message": "said \n",
    }
