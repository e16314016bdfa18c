"""What people do wrong and what systems lack: one clear line, the right exit code, nothing damaged."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import NewDrive
from tests.mount.mounted import ROOT, MountedDrive, Result, differences, run, succeed, wait_for_end

pytestmark = pytest.mark.mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs")
USAGE, FAILURE, PARTLY = 1, 32, 64


@pytest.fixture(scope="module")
def stored(module_drives: NewDrive) -> MountedDrive:
    """A drive with something in it, not mounted; each test must leave it whole."""
    drive = module_drives()
    drive.make()
    drive.mount()
    (drive.folder / "tree").mkdir()
    (drive.folder / "tree" / "file").write_bytes(os.urandom(100_000))
    run("cp", "-a", drive.folder / "tree", drive.mountpoint)
    drive.umount()
    return drive


@pytest.fixture
def whole(stored: MountedDrive) -> Iterator[MountedDrive]:
    """`stored`; afterwards not a byte under it is different, or else it still mounts and holds the same."""
    before = fingerprint(stored.drive)
    yield stored
    if fingerprint(stored.drive) == before:
        return
    stored.mount()
    assert differences(stored.folder / "tree", stored.mountpoint / "tree") == ""
    stored.umount()


def fingerprint(folder: Path) -> str:
    """All names under `folder`, with what their contents hash to."""
    return run("find", folder, "-printf", "%P %y %m\n") + run(
        "find", folder, "-type", "f", "-exec", "sha256sum", "{}", "+"
    )


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr with these words in it, and the code."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("mount.drivefs: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("option", ["nonsense", "cache_size", "cache_size=much", "journal_size=1", "ro=yes"])
def test_options_that_do_not_exist_or_have_a_bad_value(whole: MountedDrive, option: str) -> None:
    assert_refused(whole.try_mount(option), USAGE, option.split("=")[0] if "=yes" in option else "")


def test_too_few_arguments(whole: MountedDrive) -> None:
    assert_refused(whole.tool("mount.drivefs", whole.drive), USAGE, "MOUNTPOINT")


def test_a_drive_that_is_not_there(whole: MountedDrive) -> None:
    absent = whole.folder / "absent"
    assert_refused(whole.tool("mount.drivefs", absent, whole.mountpoint), FAILURE, str(absent))


@pytest.mark.parametrize("content", [b"", b"not TOML [", b"\xff\xfe", b"format = 99\n", None], ids=repr)
def test_a_corrupt_drive_file(whole: MountedDrive, content: bytes | None) -> None:
    path = whole.drive / "drive.toml"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2] if content is None else content)
    try:
        assert_refused(whole.try_mount(), FAILURE, "drive.toml")
    finally:
        path.write_bytes(good)


def test_every_line_of_the_drive_file_changed(whole: MountedDrive) -> None:
    """No change of a line makes a traceback, a hang, or another drive out of it."""
    path = whole.drive / "drive.toml"
    good = path.read_text()
    lines = [number for number, line in enumerate(good.splitlines()) if "=" in line]
    try:
        for number in lines[:: max(1, len(lines) // 8)]:
            changed = good.splitlines()
            changed[number] = changed[number].split("=")[0] + '= "changed"'
            path.write_text("\n".join(changed))
            result = whole.try_mount("ro")
            if result.returncode == 0:
                whole.umount()
            else:
                assert_refused(result, FAILURE)
    finally:
        path.write_text(good)


def test_a_wrong_key(whole: MountedDrive) -> None:
    wrong = whole.folder / "wrong"
    wrong.write_bytes(os.urandom(32))
    wrong.chmod(0o600)
    assert_refused(
        whole.tool("mount.drivefs", whole.drive, whole.mountpoint, "-o", f"key_file={wrong}"), FAILURE
    )
    wrong.write_text("a passphrase\n")
    given = f"passphrase_file={wrong}"
    assert_refused(whole.tool("mount.drivefs", whole.drive, whole.mountpoint, "-o", given), FAILURE)


def test_no_secret_and_no_terminal(whole: MountedDrive) -> None:
    assert_refused(whole.tool("mount.drivefs", whole.drive, whole.mountpoint), USAGE, "passphrase")
    given = f"key_file={whole.folder}/none"
    assert_refused(whole.tool("mount.drivefs", whole.drive, whole.mountpoint, "-o", given), FAILURE, "none")


def test_a_mountpoint_that_is_missing_or_no_folder(whole: MountedDrive) -> None:
    absent, file = whole.folder / "nowhere", whole.folder / "file"
    file.touch()
    assert_refused(whole.try_mount(where=absent), FAILURE, str(absent))
    assert_refused(whole.try_mount(where=file), FAILURE, str(file))
    assert not absent.exists()


def test_a_mountpoint_that_covers_the_drive(whole: MountedDrive) -> None:
    assert_refused(whole.try_mount(where=whole.folder), FAILURE, "cover")


def test_a_mountpoint_in_use_by_a_drive(whole: MountedDrive) -> None:
    whole.mount()
    process = whole.process_id
    assert_refused(whole.try_mount(), FAILURE, str(whole.mountpoint))
    assert (whole.mountpoint / "tree" / "file").stat().st_size == 100_000
    whole.umount()
    assert process is not None
    wait_for_end(process, 0)  # umount.drivefs has waited


@pytest.mark.parametrize("same_machine", [True, False])
def test_a_drive_that_is_mounted_already(whole: MountedDrive, same_machine: bool) -> None:
    second = whole.folder / "second"
    second.mkdir(exist_ok=True)
    whole.mount()
    (whole.mountpoint / "before").write_bytes(b"before")
    other = whole.folder / "other machine"
    options = ["ro"] if same_machine else [f"cache_dir={other / 'cache'},state_dir={other / 'state'}"]
    result = whole.try_mount(*options, where=second)
    assert_refused(result, FAILURE)
    assert "mounted" in result.stderr or "in use" in result.stderr
    (whole.mountpoint / "after").write_bytes(b"after")
    whole.sync()
    for name in ("before", "after"):
        assert (whole.mountpoint / name).read_text() == name
        (whole.mountpoint / name).unlink()
    whole.umount()
    assert not os.listdir(second)


def test_a_missing_node_is_named_and_three_are_refused(whole: MountedDrive) -> None:
    whole.take_away([4])
    try:
        result = whole.try_mount()
        assert result.returncode == 0
        assert result.stderr.count("\n") == 1
        assert "node4" in result.stderr
        result = whole.tool("umount.drivefs", whole.mountpoint)
        assert (result.returncode, "fragments on node4;" in result.stderr) == (PARTLY, True)
        whole.take_away([0, 5])
        assert_refused(whole.try_mount(), FAILURE, "node0", "node4", "node5")
    finally:
        whole.bring_back()


def test_a_foreign_node_is_named_and_not_touched(whole: MountedDrive, unmade_drive: MountedDrive) -> None:
    unmade_drive.make()
    foreign = unmade_drive.nodes()[2]
    before = run("find", foreign, "-type", "f", "-exec", "sha256sum", "{}", "+")
    whole.take_away([2])
    shutil.copytree(foreign, whole.nodes()[2])
    try:
        result = whole.try_mount()
        assert result.returncode == 0
        assert "node2" in result.stderr
        (whole.mountpoint / "written").write_bytes(os.urandom(1_000_000))
        (whole.mountpoint / "written").unlink()
        whole.umount("-f")
        seen = run("find", whole.nodes()[2], "-type", "f", "-exec", "sha256sum", "{}", "+")
        assert seen.replace(str(whole.nodes()[2]), str(foreign)) == before
    finally:
        whole.close()
        shutil.rmtree(whole.nodes()[2])
        whole.bring_back()


def test_two_nodes_exchanged_are_recognised(whole: MountedDrive) -> None:
    first, second = whole.nodes()[:2]
    exchange(first, second)
    try:
        result = whole.try_mount()
        assert result.returncode == 0
        assert "node0" in result.stderr
        assert "node1" in result.stderr
        whole.umount("-f")
    finally:
        whole.close()
        exchange(first, second)


def exchange(first: Path, second: Path) -> None:
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


def test_unmounting_what_is_not_mounted(whole: MountedDrive) -> None:
    for path in (whole.mountpoint, whole.folder / "nowhere"):
        for name, arguments in (("umount.drivefs", [path]), ("drivefs", ["status", path])):
            result = whole.tool(name, *arguments)
            assert result.returncode == (FAILURE if name == "umount.drivefs" else 1)
            assert result.stderr.count("\n") == 1
            assert str(path) in result.stderr


def test_unmounting_what_is_in_use(whole: MountedDrive) -> None:
    whole.mount()
    with open(whole.mountpoint / "tree" / "file", "rb"):
        result = whole.tool("umount.drivefs", whole.mountpoint)
        assert result.returncode == FAILURE
        assert result.stderr.count("\n") == 1
        assert "busy" in result.stderr
    whole.umount()


def test_making_a_drive_over_one(whole: MountedDrive) -> None:
    result = whole.tool("mkfs.drivefs", "--key-file", whole.key, whole.drive)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    whole.mount()
    forced = whole.tool("mkfs.drivefs", "--force", "--key-file", whole.key, whole.drive)
    whole.umount()
    assert forced.returncode == 1


@needs_root
class TestDisks:
    """Nodes and state on small disks of their own."""

    def test_read_only_nodes(self, unmade_drive: MountedDrive) -> None:
        drive = unmade_drive
        drive.drive.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", drive.drive)
        drive.make("--force")
        drive.mount()
        (drive.mountpoint / "file").write_bytes(b"content")
        drive.umount()
        run("mount", "-o", "remount,ro", drive.drive)
        assert_refused(drive.try_mount(), FAILURE)
        drive.mount("ro")
        assert (drive.mountpoint / "file").read_bytes() == b"content"
        with pytest.raises(OSError, match="Read-only"):
            (drive.mountpoint / "file").write_bytes(b"")
        drive.umount()
        run("mount", "-o", "remount,rw", drive.drive)
        drive.mount()
        (drive.mountpoint / "file").write_bytes(b"new")
        drive.umount()

    def test_a_full_state_disk(self, drive: MountedDrive) -> None:
        small = drive.folder / "small"
        small.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", small)
        drive.state = small
        drive.mount()
        (drive.mountpoint / "first").write_bytes(b"first" * 1000)
        ballast = small / "ballast"
        fill_disk(ballast)
        acknowledged, refusal = write_until_refused(drive.mountpoint)
        assert refusal == errno.ENOSPC
        for path, data in acknowledged.items():
            assert path.read_bytes() == data
        ballast.unlink()
        (drive.mountpoint / "after").write_bytes(b"after" * 100_000)
        # syncfs(2) tells once of what could not be written back before.
        told = drive.tool("drivefs", "sync", drive.mountpoint)
        assert told.returncode == 1
        assert "No space left" in told.stderr
        drive.sync()
        drive.umount()
        drive.cache, drive.state = drive.folder / "new cache", drive.folder / "new state"
        drive.mount()
        assert (drive.mountpoint / "first").read_bytes() == b"first" * 1000
        assert (drive.mountpoint / "after").read_bytes() == b"after" * 100_000
        for path, data in acknowledged.items():
            assert path.read_bytes() == data

    def test_a_state_disk_without_any_room(self, drive: MountedDrive) -> None:
        small = drive.folder / "small"
        small.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
        fill_disk(small / "ballast")
        drive.state = small
        assert_refused(drive.try_mount(), FAILURE, "space")
        (small / "ballast").unlink()
        run("mount", "-o", "remount,size=160m", small)
        drive.mount()
        drive.umount()


def fill_disk(path: Path) -> None:
    """Take all room of the disk that `path` is on."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        write_for_ever(file)


def write_for_ever(file: io.FileIO) -> None:
    while True:
        file.write(bytes(1 << 16))


def write_until_refused(folder: Path) -> tuple[dict[Path, bytes], int]:
    """What fsync and close returned for before one of them failed, and with which errno."""
    acknowledged: dict[Path, bytes] = {}
    for number in range(400):
        path, data = folder / f"file {number}", os.urandom(1 << 20)
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        except OSError as error:
            return acknowledged, error.errno or 0
        acknowledged[path] = data
    return acknowledged, 0


def test_the_mount_helper_of_the_system(whole: MountedDrive) -> None:
    """mount(8) and umount(8) find the tools where they are installed."""
    if os.geteuid() != 0 or not Path("/sbin/mount.drivefs").resolve().is_relative_to(ROOT):
        pytest.skip("the drivefs in /sbin is not this checkout's (make install-system)")
    options = f"key_file={whole.key},{whole.folder_options()},noatime,x-test.option,_netdev"
    run("mount", "-t", "drivefs", "-o", options, whole.drive, whole.mountpoint)
    assert (whole.mountpoint / "tree" / "file").exists()
    assert subprocess.run(["umount", whole.mountpoint], check=False).returncode == 0
    succeed(whole.try_mount("ro"))
    whole.umount()
