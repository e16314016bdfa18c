"""`mount -o remount`, and mounts that are made under odd circumstances: with descriptors 0 to 2 closed."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from itertools import chain, combinations

import pytest

from tests.mount.mounted import MountedDrive, Result, succeed
from tools import remount
from tools.host import mounts

pytestmark = [pytest.mark.mount]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to remount needs root")


def _remount(drive: MountedDrive, *options: str) -> Result:
    return drive.tool("mount.drivefs", drive.drive, drive.mountpoint, "-o", ",".join(["remount", *options]))


def _can_write(drive: MountedDrive) -> bool:
    try:
        (drive.mountpoint / "new").write_text("x")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return False
    return True


def _options(drive: MountedDrive) -> frozenset[str]:
    mount = mounts.find(str(drive.mountpoint))
    assert mount is not None
    return mount.options


@needs_root
def test_a_mount_becomes_read_only_and_writable_again(drive: MountedDrive) -> None:
    drive.mount("nosuid")
    (drive.mountpoint / "file").write_text("one")
    before = _options(drive)
    for word, writable in (("ro", False), ("rw", True), ("rw,ro", False), ("ro,rw", True)):
        assert succeed(_remount(drive, word)) == ""
        assert _can_write(drive) is writable
        assert (drive.mountpoint / "file").read_text() == "one"
        assert _options(drive) - {"ro", "rw"} == before - {"ro", "rw"}, "a remount has lost a flag"
    (drive.mountpoint / "file").write_text("two")
    drive.umount()
    drive.mount()
    assert (drive.mountpoint / "file").read_text() == "two"


@needs_root
def test_flags_of_the_kernel_change_and_the_rest_stays(drive: MountedDrive) -> None:
    drive.mount()
    generator = random.Random(19)
    flags = ("nosuid", "nodev", "noexec")
    for _ in range(6):
        asked = [generator.choice((flag, flag.removeprefix("no"))) for flag in flags]
        succeed(_remount(drive, *asked, "user_id=0", "group_id=0", "default_permissions"))
        assert _options(drive) & set(flags) == set(asked) & set(flags)
    said = _remount(drive, "cache_size=65M", "noacl")
    assert said.returncode == 0
    assert "as before until it is unmounted and mounted again: cache_size, noacl" in said.stderr
    assert _remount(drive, "cahce_size=64M").returncode == 1


@needs_root
def test_the_options_of_the_mount_itself_are_not_worth_a_word(drive: MountedDrive) -> None:
    """They come again with every remount of a line of fstab."""
    own = [
        f"key_file={drive.key}",
        drive.folder_options(),
        "allow_other",
        "cache_size=32M",
        "commit_interval=7s",
    ]
    drive.mount("allow_other,cache_size=32M", "commit_interval=7s", "noacl")
    for options in (own, [*own, "noacl"], ["cache_size=32768K"]):
        said = _remount(drive, "ro", *options)
        assert (succeed(said), said.stderr) == ("", "")
    others = ["acl", "cache_size=33M", "passphrase_command=false", f"key_file={drive.key}.other"]
    for option in others:
        said = _remount(drive, option)
        assert said.stderr.rstrip().endswith(f"mounted again: {option.partition('=')[0]}"), said.stderr


@needs_root
def test_what_a_remount_cannot_do_is_said(drive: MountedDrive) -> None:
    nothing = _remount(drive, "ro")
    assert nothing.returncode == 32
    assert "nothing to remount" in nothing.stderr
    drive.mount()
    with open(drive.mountpoint / "open", "w") as file:
        file.write("x")
        busy = _remount(drive, "ro")
        assert busy.returncode == 32
        assert "open for writing" in busy.stderr
    succeed(_remount(drive, "ro"))
    drive.umount()
    drive.mount("ro")
    refused = _remount(drive, "rw")
    assert refused.returncode == 32
    assert "unmount it, and mount it again" in refused.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root can remount")
def test_a_user_is_told_that_only_root_can(drive: MountedDrive) -> None:
    drive.mount()
    refused = _remount(drive, "ro")
    assert refused.returncode == 32
    assert "only root can remount: unmount it, and mount it again" in refused.stderr


def test_the_flags_that_are_asked_for_last_count() -> None:
    before = frozenset({"rw", "nosuid", "relatime"})
    assert remount.changed(before, []) == {"nosuid", "relatime"}
    assert remount.changed(before, ["ro", "suid", "noexec"]) == {"ro", "noexec", "relatime"}
    assert remount.changed(before, ["ro", "rw", "noexec", "exec"]) == {"nosuid", "relatime"}


CLOSED = [*chain.from_iterable(combinations((0, 1, 2), count) for count in (1, 2, 3))]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda closed: "".join(map(str, closed)))
def test_a_mount_with_closed_descriptors_works(drive: MountedDrive, closed: tuple[int, ...]) -> None:
    given = f"key_file={drive.key},cache_dir={drive.cache},state_dir={drive.state}"
    words = " ".join(f"{number}>&-" for number in closed)
    for command in (
        f"from tools.mount import main; main()' {drive.drive} {drive.mountpoint} -o {given}",
        f"from tools.drivefs import main; main()' status {drive.mountpoint}",
        f"from tools.umount import main; main()' {drive.mountpoint}",
    ):
        script = f'exec {sys.executable} -c \'import sys; sys.argv[0] = "x"; {command} {words}'
        done = subprocess.run(
            ["sh", "-c", script], env=drive.variables(), timeout=120, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        if "mount import" in command and "umount" not in command:
            (drive.mountpoint / "file").write_text("content" * 1000)
            assert (drive.mountpoint / "file").read_text() == "content" * 1000
    assert mounts.find(str(drive.mountpoint)) is None
