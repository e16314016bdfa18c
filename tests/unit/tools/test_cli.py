"""What the commands share: sizes and times, mount tables, the background, last words and exit codes."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import LeaseHeldError, UsageError
from backend.system import Durable
from cache.journal import SUFFIX
from cache.messages import MountStatus, from_plain
from gateway.control import Commands, ControlServer
from tests.crash.lossy_durable import LossyDurable
from tests.mount import commands
from tests.statuses import AWAY, CAPACITY, OK_NODE, SCRUB, STATUS, STORE, mount_status
from tools import drivefs, errors
from tools.commands import doctor
from tools.commands.doctor import Diagnosis
from tools.commands.status_report import is_well, report
from tools.control_client import ControlClient, NoAnswerError, NotMountedError
from tools.errors import COMMAND_CODES, MKFS_CODES, MOUNT_CODES, MissingSystemError, ReportedError, ToolError
from tools.host import daemon, mount_users, mounts, places
from tools.host.logs import JsonFormatter
from tools.mkfs import mkfs
from tools.mount import mount
from tools.quantities import counted, format_duration, format_size, parse_duration, parse_size
from tools.umount import umount

ROOT = Path(__file__).parents[3]
MOUNTINFO = (
    b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    b"90 22 0:47 / /mnt/a\\040b rw,nosuid shared:5 master:1"
    b" - fuse.drivefs /srv/drive\\011x rw,user_id=1000,group_id=7\n"
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


def test_times_for_people() -> None:
    said = [format_duration(seconds) for seconds in (0.1, 1.5, 5, 90, 120, 3600, 5400)]
    assert said == ["100 ms", "1500 ms", "5 s", "90 s", "2 m", "1 h", "90 m"]


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
    root, drive = mounts.parse(MOUNTINFO)
    options = frozenset({"rw", "nosuid"})
    expected = mounts.Mount("/mnt/a b", "fuse.drivefs", "/srv/drive\tx", "0:47", options, 1000)
    assert (drive, root.owner) == (expected, None)


odd_names = st.lists(st.sampled_from(b"a- \t\r\n\v\f\x1b\x1c\x85\\\xff"), min_size=1).map(bytes)


@given(st.lists(odd_names, min_size=1, max_size=4))
def test_a_mount_table_of_any_names(names: list[bytes]) -> None:
    """As the kernel writes it: of all bytes it escapes these four."""
    escaped = [re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % found[0][0], b"/" + name) for name in names]
    lines = [b"96 25 0:47 / %s rw - fuse.drivefs %s rw,user_id=1000\n" % (name, name) for name in escaped]
    found = mounts.parse(b"".join(lines))
    assert [os.fsencode(mount.mountpoint) for mount in found] == [b"/" + name for name in names]
    assert [os.fsencode(mount.source) for mount in found] == [b"/" + name for name in names]


def test_what_is_mounted_is_found_and_a_folder_is_not(tmp_path: Path) -> None:
    assert mounts.find("/proc") is not None
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
    assert capsys.readouterr().err == "tool: all\\nis not well\n"


def test_a_system_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere")) == 32
    assert capsys.readouterr().err == "tool: /nowhere: No such file or directory\n"


@pytest.mark.parametrize("lines", [1, 100_000], ids=["told at the end", "told in the middle"])
def test_who_reads_no_more_is_not_told_so(lines: int) -> None:
    """`drivefs log ... | head`."""
    program = (
        "from tools.errors import COMMAND_CODES, run\n"
        f"run('drivefs', COMMAND_CODES, lambda _: [print('line') for _ in range({lines})] and 0)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False, cwd=ROOT
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_closed_output_is_no_bug() -> None:
    program = (
        "from tools.errors import COMMAND_CODES, run; run('x', COMMAND_CODES, lambda _: print('line') or 0)"
    )
    command = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, program]
    ended = subprocess.run(command, stderr=subprocess.PIPE, check=False, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_pipe_of_others_that_broke_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: Sequence[str]) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        for stdout in (output, None):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "stdout", stdout)
                assert errors.call("x", COMMAND_CODES, broken, []) == 1
    os.close(reader)
    assert capsys.readouterr().err == "x: Broken pipe\n" * 2


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


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("{0}/disk", "{0}/disk"),
        ("{0}/disk/a/b", "{0}/disk"),
        ("{0}/diskette", None),
        ("/proc/self", None),
        ("{0}/linked/a", "{0}/target"),
        ("{0}/target/a", "{0}/target"),
    ],
)
def test_a_disk_of_fstab_that_is_not_mounted_is_awaited(
    tmp_path: Path, path: str, point: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links are followed, and where the mount table has no root, as in a chroot, it is there all the same."""
    monkeypatch.setattr(mounts, "mounts", lambda: [mounts.Mount("/proc", "proc", "proc")])
    (tmp_path / "target").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "target")
    table = tmp_path / "fstab"
    lines = [
        "# /dev/x {0}/diskette ext4",
        "",
        "x",
        "UUID=1 {0}/disk ext4 noauto 0 2",
        "y none swap",
        "z /proc proc",
        "r / ext4",
        "s {0}/linked ext4",
    ]
    table.write_text("\n".join(lines).format(tmp_path) + "\n")
    wanted = None if point is None else point.format(tmp_path)
    assert mounts.awaited(path.format(tmp_path), str(table)) == wanted
    assert mounts.awaited(path.format(tmp_path), str(tmp_path / "absent")) is None


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

    def test_the_state_folder_is_chosen_likewise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {"DRIVEFS_STATE_DIR": "/env", "DRIVEFS_CACHE_DIR": "/cache", "HOME": "/home/me"}
        assert places.state_folder("id", "/asked", environment) == "/asked/id"
        assert places.state_folder("id", None, environment) == "/env/id"
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert places.state_folder("id", None, {}) == "/var/lib/drivefs/id"
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        assert places.state_folder("id", None, {"HOME": "/h"}) == "/h/.local/state/drivefs/id"
        assert str(places.hubs_folder({"HOME": "/h"})) == "/h/.local/state/drivefs/hubs"
        assert places.state_folder("id", None, {"HOME": "/h", "XDG_STATE_HOME": "/x"}) == "/x/drivefs/id"

    def test_another_cache_is_no_other_machine(self) -> None:
        """The journal stays where it is, or what is only there would seem lost."""
        first, second = (places.folders("id", cache, None, {}) for cache in ("/a", "/b"))
        assert first.state == second.state
        assert first.cache != second.cache

    def test_a_mount_that_only_looks_has_both_folders_of_its_own(self, tmp_path: Path) -> None:
        own = places.Folders(tmp_path / "cache", tmp_path / "state")
        assert places.spare_folders(own) == places.Folders(
            tmp_path / "cache.past-1", tmp_path / "state.past-1"
        )

    def test_the_cache_folder_is_private(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        places.make_private_folder(str(folder), Durable())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o755)
        places.make_private_folder(str(folder), Durable())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_power_cut_does_not_take_the_state_folder(self, tmp_path: Path) -> None:
        """With a journal in it that was synced."""
        for seed in range(10):
            disk = LossyDurable(random.Random(seed), tmp_path / "kept")
            folder = tmp_path / f"new {seed}" / "state"
            places.make_private_folder(str(folder), disk)
            assert disk.knows(folder)
            disk.cut(tmp_path)
            assert folder.is_dir()

    def test_a_file_in_place_of_the_cache_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ToolError, match="cannot be used"):
            places.make_private_folder(str(tmp_path / "file" / "cache"), Durable())

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

    @pytest.mark.parametrize("which", ["cache", "state"])
    def test_plaintext_is_not_kept_in_a_node(self, tmp_path: Path, which: str) -> None:
        own = places.Folders(tmp_path / "cache", tmp_path / "state")
        places.check_not_inside(own, [str(tmp_path / "node0"), str(tmp_path / "stat")])
        (tmp_path / "node0").mkdir()
        (tmp_path / which).symlink_to(tmp_path / "node0" / "deep")
        with pytest.raises(ToolError, match="lies in the node") as found:
            places.check_not_inside(own, [str(tmp_path / "node0")])
        assert "mv " not in str(found.value)

    def test_a_journal_in_a_node_is_moved_as_the_message_says(self, tmp_path: Path) -> None:
        node, new = tmp_path / "node0", tmp_path / "new place"
        (node / "a b" / "id" / "journal").mkdir(parents=True)
        (node / "a b" / "id" / "journal" / f"1{SUFFIX}").write_bytes(b"x")
        (tmp_path / "link").symlink_to(node / "a b")
        own = places.folders("id", None, str(tmp_path / "link"), {})
        with pytest.raises(ToolError, match="lies in the node") as found:
            places.check_not_inside(own, [str(node)])
        said = re.search(r"(mv .*/), then mount with -o state_dir=NEWFOLDER", str(found.value))
        assert said is not None
        new.mkdir()
        subprocess.run(said[1].replace("NEWFOLDER", f"'{new}'"), shell=True, check=True)
        moved = places.folders("id", None, str(new), {})
        places.check_not_inside(moved, [str(node)])
        assert places.has_journal(str(moved.state))

    @pytest.mark.parametrize(
        ("flags", "blocks", "said"),
        [(os.ST_RDONLY, 1 << 20, "read-only"), (0, 3, "is full .12 KiB left"), (0, 1 << 20, None)],
    )
    def test_a_state_disk_that_cannot_be_used_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, blocks: int, said: str | None
    ) -> None:
        found = os.statvfs_result((4096, 4096, 1 << 20, blocks, blocks, 0, 0, 0, flags, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: found)
        places.check_state_disk(tmp_path / "none")
        if said is None:
            places.check_state_disk(tmp_path)
            return
        with pytest.raises(ToolError, match=said):
            places.check_state_disk(tmp_path)

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
        "message": "said \\n",
    }


@pytest.mark.parametrize(
    ("changed", "well"),
    [
        ({}, True),
        ({"problem": "nothing can be stored"}, False),
        ({"fenced": True}, False),
        ({"set_apart": [{"path": "/a", "reason": "EIO"}]}, False),
        ({"store": STORE}, False),
        ({"store": None}, True),
        ({"dirty_bytes": 1 << 40, "published": False}, True),
    ],
)
def test_a_status_with_a_problem_is_not_well(changed: dict[str, object], well: bool) -> None:
    quiet = {"store": {**STORE, "nodes": [OK_NODE]}}
    assert is_well(mount_status(**{**quiet, **changed})) is well


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_nothing_is_compressed_to_more_than_it_was(new: int, stored: int) -> None:
    said = report(mount_status(sealed_bytes=new, new_bytes=new, new_stored_bytes=stored))
    assert ("compressed to" in said) is (stored < new)
    assert all(int(number) <= 100 for number in re.findall(r"compressed to (\d+) %", said))


def test_a_status_as_a_person_reads_it() -> None:
    lines = dict(line.split("  ", 1) for line in report(mount_status()).splitlines())
    said = {name: text.strip() for name, text in lines.items()}
    assert said["state"] == "not yet stored: 2 files with 2.0 KiB, 3 changes; commit 7"
    assert said["commits"] == "5 s after a change, or at a sync"
    assert said["cache"] == "0 B, 75 % of 4 reads"
    assert said["this mount"] == "1000 B written, 50 % of it new, compressed to 20 %"
    assert said["on the nodes"] == "1.5 MiB with parity, 1.50 x the files"
    assert said["to repair"] == "2 packs"
    assert said["node0"] == "ok, 1.0 KiB of 2.0 KiB free, zone disk0"
    assert said["node1"] == "node1: it is missing"
    assert said["node2"] == "full, 64 B of 2.0 KiB free, zone disk0, no ballast (drivefs doctor)"
    assert said["room"] == "4.0 KiB of 8.0 KiB free, " + (
        "limited by node2, which is far smaller than the others, as far as is known without node1"
    )


def test_the_status_says_that_the_hub_is_away_and_what_waits() -> None:
    lines = dict(line.split("  ", 1) for line in report(mount_status(away=AWAY)).splitlines())
    assert lines["offline"].strip() == "since 2023-11-14T221320Z: no route"
    assert lines["waiting"].strip() == (
        "5 changes with 2.0 KiB here, not published, the oldest of 2023-11-14T221320Z"
    )
    lines = dict(line.split("  ", 1) for line in report(mount_status(away=AWAY, waiting=None)).splitlines())
    assert lines["waiting"].strip() == "nothing: all that this machine wrote is published"


def test_of_a_drive_at_a_hub_no_nodes_are_told() -> None:
    lines = report(mount_status(hub="https://hub.example")).splitlines()
    said = {name: text.strip() for name, text in (line.split("  ", 1) for line in lines)}
    assert said["hub"] == "https://hub.example"
    assert said["commits"] == "at once after a change, or at a sync"
    assert said["at the hub"] == "5 blocks with 1.0 MiB"
    assert said["on the way"] == "1 B"
    assert not said.keys() & {"node0", "on the nodes", "room", "to repair"}


@pytest.mark.parametrize(
    ("available", "storable", "said"),
    [
        (0, 4096, "none of 8.0 KiB with full redundancy, 4.0 KiB with less"),
        (0, 0, "0 B of 8.0 KiB free"),
        (1024, 4096, "1.0 KiB of 8.0 KiB free"),
    ],
)
def test_room_without_redundancy_is_told_apart(available: int, storable: int, said: str) -> None:
    capacity = {**CAPACITY, "available": available, "storable": storable, "limited_by": []}
    status = mount_status(store={**STORE, "capacity": capacity, "nodes": [OK_NODE]})
    assert f"room          {said}" in report(status).splitlines()


@given(st.integers(0, 32), st.integers(1, 32))
def test_with_fewer_nodes_than_storing_takes_no_room_is_promised(takers: int, quorum: int) -> None:
    capacity = CAPACITY if takers else None
    status = mount_status(store={**STORE, "takers": takers, "write_quorum": quorum, "capacity": capacity})
    (room,) = [line for line in report(status).splitlines() if line.startswith("room")]
    assert ("nothing can be stored now" in room) is (takers < quorum)
    assert ("free" in room) is (takers >= quorum)


def test_room_that_is_unknown_is_not_told() -> None:
    status = mount_status(store={**STORE, "capacity": None})
    assert "room" not in {line.split()[0] for line in report(status).splitlines()}


def test_one_is_not_several() -> None:
    """Whatever is counted: of one, no plural is told."""

    def all_ones(value: object) -> object:
        if isinstance(value, dict):
            return {key: all_ones(each) for key, each in value.items()}
        return 1 if type(value) is int else value

    plain = {**STATUS, "set_aside": 1, "scrub": {**SCRUB, "unanswered": 1, "running": True}}
    status = from_plain(MountStatus, all_ones(plain))
    assert re.findall(r"(?<![\d.])1 [a-z]+s\b", report(status)) == []
    assert "1 file and 1 folder with 1 B" in report(status)
    assert [counted(number, "copy") for number in (0, 1, 2)] == ["0 copies", "1 copy", "2 copies"]


def test_what_is_wrong_stands_first() -> None:
    assert report(mount_status(problem="too few nodes")).splitlines()[0].endswith("too few nodes")
    assert "all is stored" in report(mount_status(published=True, dirty_bytes=0, store=None))


def test_a_drive_is_not_around_what_is_mounted_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places_ = [
        ("/", "ext4"),
        ("/m", "fuse.drivefs"),
        ("/m/in", "tmpfs"),
        ("/over", "fuse.drivefs"),
        ("/over", "ext4"),
    ]
    table = [mounts.Mount(path, type_, "/srv/drive") for path, type_ in places_]
    monkeypatch.setattr(mounts, "mounts", lambda: table)
    around = {path: mounts.drive_around(path) for path in ("/m", "/m/a/b", "/mm", "/m/in/x", "/over/x", "/")}
    assert [path for path, found in around.items() if found is not None] == ["/m", "/m/a/b"]
    assert mounts.drive_folder("/m") == "/srv/drive"
    assert mounts.drive_folder("/m/a") == "/m/a"
    assert mounts.drive_folder("/over") == "/over"


class TestControlClient:
    """The client against the real server of the mount."""

    async def test_questions_and_answers(self, tmp_path: Path) -> None:
        synced = []

        async def status() -> MountStatus:
            return mount_status(commit=3)

        async def sync() -> None:
            synced.append(True)
            if len(synced) == 2:
                raise LeaseHeldError("taken over")
            if len(synced) == 3:
                await trio.sleep_forever()

        async def write_back() -> str:
            return ""

        socket = tmp_path / "run" / "control"
        client = ControlClient(str(socket))
        ask = trio.to_thread.run_sync
        async with trio.open_nursery() as nursery:
            commands = Commands(status, sync, write_back, lambda: None)
            await nursery.start(ControlServer(socket, commands).serve)
            assert await ask(client.status) == mount_status(commit=3)
            assert await ask(client.process_id) == os.getpid()
            await ask(client.sync, str(tmp_path), None)
            with pytest.raises(ToolError, match="taken over"):
                await ask(client.sync, str(tmp_path), None)
            with pytest.raises(NoAnswerError, match="no answer within"):
                await ask(client.sync, str(tmp_path), 0.2)
            nursery.cancel_scope.cancel()
        with pytest.raises(NoAnswerError, match="does not answer"):
            await ask(client.status)

    @pytest.mark.parametrize("theirs", [False, True])
    async def test_the_socket_of_another_user_is_not_believed(
        self, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, theirs: bool
    ) -> None:
        """Anybody may make a socket that claims to be that of a mount."""

        async def status() -> MountStatus:
            return mount_status(commit=3)

        async def nothing() -> None:
            raise AssertionError

        async def no_problem() -> str:
            return ""

        commands = Commands(status, nothing, no_problem, lambda: None)
        await nursery.start(ControlServer(tmp_path, commands).serve_device, os.makedev(4000, 4712))
        owner = os.geteuid() + theirs
        mount = mounts.Mount(str(tmp_path), "fuse.drivefs", "/d", "4000:4712", frozenset(), owner)
        monkeypatch.setattr(mounts, "find", lambda _: mount)
        if theirs:
            with pytest.raises(NotMountedError):
                await trio.to_thread.run_sync(ControlClient.of_mount, str(tmp_path))
            return
        client = await trio.to_thread.run_sync(ControlClient.of_mount, str(tmp_path))
        assert (await trio.to_thread.run_sync(client.status)) == mount_status(commit=3)

    def test_where_no_drive_is_mounted(self, tmp_path: Path) -> None:
        with pytest.raises(NotMountedError, match="no drivefs drive"):
            ControlClient.of_mount(str(tmp_path))
        with pytest.raises(NotMountedError, match="no such folder"):
            ControlClient.of_mount(str(tmp_path / "none"))


class Bench:
    """A drive in a folder, its key, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.drive, self.mountpoint, self.key = folder / "drive", folder / "mnt", folder / "key"
        self.own = f"cache_dir={folder / 'cache'},state_dir={folder / 'state'}"
        self.forks = True
        self.mountpoint.mkdir()
        self.key.write_bytes(bytes(range(32)))
        self.key.chmod(0o600)
        assert mkfs(["--quiet", "--key-file", str(self.key), str(self.drive)]) == 0

    def refused(self, *arguments: str, options: str = "", drive: Path | None = None) -> tuple[int, str]:
        """Exit code and message of a mount that only checks."""
        chosen = f"key_file={self.key},{self.own}{options}"
        words = ["-f", "-o", chosen, *arguments, str(drive or self.drive), str(self.mountpoint)]
        with pytest.raises((Exception, SystemExit)) as caught:
            mount(words)
        return errors.exit_code(caught.value, MOUNT_CODES), errors.describe(caught.value)

    def run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own, without an interpreter of its own but where a test wants one."""
        if self.forks and commands.may_fork("mount.drivefs", {}):
            return commands.run(f"tools.{tool}", tool, arguments, os.environ, 60)
        program = f"from tools.{tool} import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=Path(__file__).parents[3],
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def mount(self, options: str = "") -> subprocess.CompletedProcess[str]:
        chosen = f"key_file={self.key},{self.own}{options}"
        return self.run("mount", str(self.drive), str(self.mountpoint), "-o", chosen)

    def umount(self) -> subprocess.CompletedProcess[str]:
        return self.run("umount", str(self.mountpoint), "--timeout", "30s")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    if mounts.find(str(bench.mountpoint)) is not None:
        umount(["--force", str(bench.mountpoint)])


@pytest.mark.mount
class TestMountCommand:
    """`mount.drivefs` and `umount.drivefs` with real mounts, and what they refuse without one."""

    def test_what_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.refused(options=",bogus") == (1, "unknown mount option 'bogus'")
        code, said = bench.refused(drive=tmp_path / "nothing")
        assert (code, "no drive here" in said) == (32, True)
        (tmp_path / "key2").write_bytes(bytes(32))
        (tmp_path / "key2").chmod(0o600)
        code, said = bench.refused(options=f",key_file={tmp_path / 'key2'}")
        assert (code, "wrong key file" in said) == (32, True)
        for name in ("node0", "node1", "node4"):
            (bench.drive / name).rename(tmp_path / name)
        code, said = bench.refused()
        assert (code, "3 of 6 nodes cannot be used" in said, "node4" in said) == (32, True, True)
        (bench.drive / "drive.toml").write_text("format = 99\n")
        code, said = bench.refused()
        assert (code, "drive.toml" in said) == (32, True)

    def test_a_fake_mount_checks_and_mounts_nothing(self, bench: Bench) -> None:
        words = [str(bench.mountpoint), "-o", f"key_file={bench.key},bogus", "-sfn"]
        assert mount([str(bench.drive), *words]) == 0
        assert mounts.find(str(bench.mountpoint)) is None

    def test_mount_store_unmount_mount(self, bench: Bench) -> None:
        """All as people start it."""
        bench.forks = False
        result = bench.mount()
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        (bench.mountpoint / "file").write_text("content")
        assert bench.run("drivefs", "sync", str(bench.mountpoint)).returncode == 0
        status = json.loads(bench.run("drivefs", "status", "--json", str(bench.mountpoint)).stdout)
        assert status["published"]
        assert bench.run("drivefs", "status", str(bench.mountpoint)).stdout.startswith("state")
        again = bench.mount()
        assert (again.returncode, "is mounted here already" in again.stderr) == (32, True)
        assert bench.umount().returncode == 0
        assert mounts.find(str(bench.mountpoint)) is None
        assert bench.mount(",ro").returncode == 0
        assert (bench.mountpoint / "file").read_text() == "content"
        assert bench.umount().returncode == 0
        assert bench.umount().returncode == 32

    def test_a_killed_mount_is_mounted_again(self, bench: Bench) -> None:
        assert bench.mount().returncode == 0
        with open(bench.mountpoint / "file", "w") as file:
            file.write("content")
        process = ControlClient.of_mount(str(bench.mountpoint)).process_id()
        handle = os.pidfd_open(process)
        os.kill(process, signal.SIGKILL)
        assert select.select([handle], [], [], 10)[0], "the process has not ended"
        os.close(handle)
        result = bench.mount()
        assert (result.returncode, result.stderr) == (0, "")
        assert (bench.mountpoint / "file").read_text() == "content"

    def test_a_path_in_a_mount_is_told_from_its_mountpoint(self, bench: Bench) -> None:
        assert bench.mount().returncode == 0
        inside = bench.mountpoint / "folder"
        inside.mkdir()
        for path in (inside, inside / "nothing"):
            for arguments in (("drivefs", "status"), ("drivefs", "sync"), ("umount",)):
                result = bench.run(*arguments, str(path))
                assert result.returncode in (1, 32)
                assert f"mounted at {bench.mountpoint}" in result.stderr
        result = bench.run("drivefs", "doctor", str(bench.mountpoint))
        assert f"{bench.drive}: drive " in result.stdout
        assert f"mounted at {bench.mountpoint}" in result.stdout

    def test_who_keeps_a_mount_busy_is_named(self, bench: Bench) -> None:
        assert bench.mount().returncode == 0
        with subprocess.Popen(["sleep", "60"], cwd=bench.mountpoint) as inside:
            try:
                result = bench.umount()
            finally:
                inside.kill()
        assert result.returncode == 32
        assert f"sleep ({inside.pid}) is in it or has a file open there" in result.stderr
        assert result.stderr.count("\n") == 1
        assert bench.umount().returncode == 0

    def test_a_scrub_that_begins_does_not_tell_of_the_last_one(self, bench: Bench) -> None:
        assert bench.mount().returncode == 0
        (bench.mountpoint / "file").write_bytes(bytes(1 << 20))
        assert bench.run("drivefs", "sync", str(bench.mountpoint)).returncode == 0
        waited = bench.run("drivefs", "scrub", "--wait", str(bench.mountpoint))
        assert (waited.returncode, waited.stdout.endswith(", 0 wrong\n")) == (0, True)
        begun = bench.run("drivefs", "scrub", "--now", str(bench.mountpoint))
        assert (begun.returncode, begun.stdout.count("\n")) == (0, 1)
        assert "a scrub has begun; " in begun.stdout or "under way: " in begun.stdout
        assert waited.stdout.strip() not in begun.stdout

    def test_nodes_come_under_a_mount_and_go_between_two(self, bench: Bench) -> None:
        """Two come, without a secret, the drive being named by either of its places; one goes, with all it
        held, while nobody has the drive mounted."""
        assert bench.mount().returncode == 0
        (bench.mountpoint / "file").write_bytes(os.urandom(3 << 20))
        content = (bench.mountpoint / "file").read_bytes()
        for place, name in ((bench.mountpoint, "node6"), (bench.drive, "node7")):
            result = bench.run("drivefs", "node", "add", str(bench.drive / name), str(place))
            assert (result.returncode, result.stderr) == (0, "")
            assert f"is {name} (epoch " in result.stdout
        status = bench.run("drivefs", "status", str(bench.mountpoint)).stdout
        assert re.search(r"^nodes +add: done$", status, re.MULTILINE)
        listed = bench.run("drivefs", "node", "list", str(bench.mountpoint))
        assert (listed.returncode, listed.stdout.count("  ok\n")) == (0, 8)
        inside = bench.run("drivefs", "node", "add", str(bench.mountpoint / "node8"), str(bench.drive))
        assert (inside.returncode, inside.stdout) == (1, "")
        assert f"lies in the drive that is mounted at {bench.mountpoint}" in inside.stderr
        (bench.mountpoint / "more").write_text("goes on")
        assert bench.umount().returncode == 0
        key = ["--key-file", str(bench.key)]
        result = bench.run("drivefs", "node", "remove", "node2", str(bench.drive), *key)
        assert (result.returncode, result.stderr) == (0, "")
        # A pack is on six of seven nodes, so one of any two has a part of it, and not always the same.
        lost = next(f"node{number}" for number in (0, 1) if any(bench.drive.glob(f"node{number}/packs/*/*")))
        shutil.rmtree(bench.drive / lost)
        assert bench.mount().returncode == 0
        assert (bench.mountpoint / "file").read_bytes() == content
        assert (bench.mountpoint / "more").read_text() == "goes on"
        result = bench.umount()
        packs = Counter(path.name.partition(".")[0] for path in bench.drive.glob("node*/packs/*/*"))
        assert set(packs.values()) <= {5, 6}
        lacking = sum(count < 6 for count in packs.values())
        assert lacking
        said = "1 pack lacks" if lacking == 1 else f"{lacking} packs lack"
        assert (result.returncode, f"{said} fragments on {lost};" in result.stderr) == (64, True)
        assert mounts.find(str(bench.mountpoint)) is None

    def test_sync_and_umount_say_when_nodes_are_away_and_nothing_is_new(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Nodes that go while the drive is mounted, and nodes that were away when it was."""
        assert bench.mount().returncode == 0
        (bench.mountpoint / "file").write_bytes(os.urandom(1 << 20))
        assert bench.run("drivefs", "sync", str(bench.mountpoint)).returncode == 0
        for name in ("node0", "node5"):
            (bench.drive / name).rename(tmp_path / name)
        for _ in range(2):
            result = bench.run("drivefs", "sync", str(bench.mountpoint))
            assert (result.returncode, "fragments on node0, node5;" in result.stderr) == (3, True)
            result = bench.umount()
            assert (result.returncode, "fragments on node0, node5;" in result.stderr) == (64, True)
            assert bench.mount().returncode == 0
        for name in ("node0", "node5"):
            (tmp_path / name).rename(bench.drive / name)
        result = bench.run("drivefs", "sync", str(bench.mountpoint))
        assert (result.returncode, result.stderr) == (0, "")
        assert bench.umount().returncode == 0

    def test_sync_and_umount_say_when_a_node_is_away(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.mount().returncode == 0
        (bench.drive / "node5").rename(tmp_path / "away")
        (bench.mountpoint / "file").write_bytes(os.urandom(1 << 20))
        result = bench.run("drivefs", "sync", str(bench.mountpoint))
        assert (result.returncode, result.stderr.count("\n")) == (3, 1)
        assert "all is stored, but not yet with the redundancy that was promised" in result.stderr
        assert re.search(r"promised: (1 pack lacks|[02-9] packs lack) fragments on node5", result.stderr)
        assert "node5" in result.stderr
        result = bench.umount()
        assert (result.returncode, "node5" in result.stderr) == (64, True)
        assert mounts.find(str(bench.mountpoint)) is None
        (tmp_path / "away").rename(bench.drive / "node5")
        assert bench.mount().returncode == 0
        result = bench.run("drivefs", "sync", str(bench.mountpoint))
        assert (result.returncode, result.stderr) == (0, "")
        assert bench.umount().returncode == 0

    def test_doctor_looks_at_the_drive(self, bench: Bench) -> None:
        (bench.drive / "node1").rename(bench.drive / "away")
        findings = [str(finding) for finding in doctor.examine(str(bench.drive))]
        assert any(line.startswith("ok   node0: ") for line in findings)
        assert any(line.startswith("note node1: ") and "missing" in line for line in findings)
        assert not any(line.startswith("BAD") for line in findings)

    def test_doctor_names_a_node_that_can_keep_nothing_for_the_last_deletions(self, bench: Bench) -> None:
        with open(bench.drive / "node0" / ".ballast", "wb") as hollow:
            hollow.truncate(1 << 20)
        findings = [str(finding) for finding in doctor.examine(str(bench.drive))]
        assert [line[:11] for line in findings if "no ballast" in line] == ["note node0:"]

    def test_doctor_looks_at_the_folders_that_the_mount_uses(self, bench: Bench) -> None:
        assert bench.mount().returncode == 0
        findings = "\n".join(map(str, doctor.examine(str(bench.drive))))
        assert bench.umount().returncode == 0
        assert f"cache: {bench.drive.parent}/cache/" in findings
        assert f"state: {bench.drive.parent}/state/" in findings
        unmounted = "\n".join(map(str, doctor.examine(str(bench.drive))))
        assert f"cache: {bench.drive.parent}/cache/" not in unmounted

    def test_doctor_says_how_often_changes_are_published(self, bench: Bench) -> None:
        assert bench.mount(",commit_interval=90s").returncode == 0
        mounted = doctor.examine(str(bench.drive))
        assert bench.umount().returncode == 0
        said = "changes are in a commit after"
        told = Diagnosis("ok", f"{said} 90 s, as commit_interval= says; without it after 5 s")
        assert told in mounted
        assert Diagnosis("ok", f"{said} 5 s") in doctor.examine(str(bench.drive))


def test_each_command_is_in_the_module_that_is_imported_for_it() -> None:
    for module, names in drivefs.MODULES.items():
        help_text = drivefs.parser_of([module]).format_help()
        assert re.findall(r"^    ([a-z][a-z0-9-]*)", help_text, re.MULTILINE) == list(names)


@pytest.mark.parametrize("command", ["status", "sync", "log", "du"])
def test_who_asks_a_mount_does_not_wait_for_what_it_does_not_need(command: str) -> None:
    program = (
        "import sys\n"
        "from tools import drivefs\n"
        f"parser = drivefs.parser_of([m for m, names in drivefs.MODULES.items() if {command!r} in names])\n"
        "print(*{'trio', 'cryptography', 'apsw', 'pyeclib', 'pyfuse3'} & set(sys.modules))\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert shown.stdout == b"\n"


def test_a_mount_without_an_s3_door_loads_nothing_of_one() -> None:
    program = "import sys, tools.mount; print(*{'awscrt', 'defusedxml', 'gateway.s3'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert shown.stdout == b"\n"


def test_who_uses_a_folder_is_seen_by_where_it_is_and_what_it_has_open(tmp_path: Path) -> None:
    used, beside = tmp_path / "used", tmp_path / "used and more"
    used.mkdir()
    beside.mkdir()
    (used / "file").touch()
    assert mount_users.users(str(used)) == []
    assert "a shell or program" in mount_users.why_busy(str(used))
    with ExitStack() as stack:
        kept = stack.enter_context(open(used / "file"))
        for folder, given in ((beside, None), (used, None), (beside, kept)):
            process = stack.enter_context(subprocess.Popen(["sleep", "60"], cwd=folder, stdin=given))
            stack.callback(process.kill)
            expected = [*mount_users.users(str(used))]
            assert (f"sleep ({process.pid})" in expected) is (folder is used or given is not None)
        assert len(mount_users.users(str(used))) == 2
        for _ in range(mount_users.MOST):
            stack.callback(stack.enter_context(subprocess.Popen(["sleep", "60"], cwd=used)).kill)
        assert len(mount_users.users(str(used))) == mount_users.MOST


@pytest.mark.parametrize(
    "arguments",
    [["restore", "f", "--at", ""], ["diff", "f", ""], ["diff", "f", "2h", " "], ["pin", "m", ""]],
)
def test_an_empty_time_does_not_mean_now(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.call("drivefs", COMMAND_CODES, drivefs.drivefs, arguments) == 2
    assert "TIME is empty" in capsys.readouterr().err


def test_allow_other_that_the_system_forbids_is_a_matter_of_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(places, "user_allow_other", lambda: False)
    with pytest.raises(PermissionError) as caught:
        places.check_allow_other()
    assert errors.exit_code(caught.value, MOUNT_CODES) == 1
    assert errors.describe(caught.value).startswith("allow_other needs the line 'user_allow_other'")
