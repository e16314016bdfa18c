"""Mounting without root's shell: by a user without privileges, and by mount(8) from a line of fstab(5)."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, run, wait_for_end
from tools.host import mounts

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user and as init, which takes root"),
]
needs_namespace = pytest.mark.skipif(
    mounts.find("/") is None, reason="unshare(1) needs a root that is a mount point, as no chroot(8) has"
)

AS_NOBODY = """
set -eu
mount --make-rprivate /
mknod -m 666 "$FOLDER/fuse" c 10 229
mount --bind "$FOLDER/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups \
    --inh-caps +dac_read_search --ambient-caps +dac_read_search sh -eu -c "$0"
"""
"""A mount namespace of its own, where anybody may open /dev/fuse as on a desktop, and a user who may mount
nothing by himself. He may read what root may: the interpreter can lie in root's home."""

TOOLS = """
cd "$FOLDER"
tool() { module=$1; shift; "$PYTHON" -c "import sys; from tools.$module import main; main()" "$@"; }
umask 077
"""
KEY = "head -c 32 /dev/urandom > key\n"


def drive_variables(drive: MountedDrive) -> dict[str, str]:
    """What the scripts need to know."""
    return drive.variables() | {
        "FOLDER": str(drive.folder),
        "DRIVEFS_CACHE_DIR": str(drive.cache),
        "DRIVEFS_STATE_DIR": str(drive.state),
        "PYTHON": sys.executable,
        "HOME": str(drive.folder),
    }


def as_nobody(drive: MountedDrive, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as a user without privileges who owns the drive's folder. Its mounts end with it."""
    run("chown", "-R", "65534:65534", drive.folder)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", AS_NOBODY, TOOLS + KEY + script],
        capture_output=True,
        text=True,
        env=drive_variables(drive),
        timeout=120,
        check=False,
    )


@needs_namespace
def test_a_user_without_privileges_mounts_and_unmounts(unmade_drive: MountedDrive) -> None:
    done = as_nobody(
        unmade_drive,
        """
        tool mkfs -q --key-file key "$FOLDER/drive"
        tool mount "$FOLDER/drive" "$FOLDER/mnt" -o key_file="$FOLDER/key"
        echo hello > mnt/file
        mkdir mnt/folder
        stat -c '%U %a' mnt/file
        tool drivefs sync mnt
        ls mnt/.versions >&2
        tool umount mnt
        tool mount "$FOLDER/drive" "$FOLDER/mnt" -o key_file="$FOLDER/key"
        cat mnt/file
        fusermount3 -u mnt
        ls mnt
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nobody 600\nhello\n"


BY_THE_USER = """
tool mkfs -q --key-file key "$FOLDER/drive"
tool mount "$FOLDER/drive" "$FOLDER/mnt" -o key_file="$FOLDER/key"
echo hello > mnt/file
"""
BY_ROOT = """
if ls mnt; then exit 1; fi
tool drivefs sync mnt
tool drivefs status mnt
tool drivefs log mnt/file
tool umount "$FOLDER/mnt"
"""


@needs_namespace
def test_root_asks_syncs_and_unmounts_the_mount_of_a_user(unmade_drive: MountedDrive) -> None:
    """At shutdown, for example. FUSE lets nobody but the user look into it, not even root."""
    run("chown", "-R", "65534:65534", unmade_drive.folder)
    user = AS_NOBODY.replace("exec setpriv", "setpriv").replace('"$0"', '"$BY_THE_USER"')
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", user + TOOLS + BY_ROOT],
        capture_output=True,
        text=True,
        env=drive_variables(unmade_drive) | {"BY_THE_USER": TOOLS + KEY + BY_THE_USER},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Permission denied" in done.stderr, "root could look into it"
    assert "all is stored" in done.stdout
    assert "created" in done.stdout
    run("chown", "-R", "0:0", unmade_drive.folder)
    unmade_drive.mount()
    assert (unmade_drive.mountpoint / "file").read_text() == "hello\n"


UTAB = Path("/run/mount/utab")
WAYS: dict[str, Callable[[MountedDrive], object]] = {
    "umount.drivefs": lambda drive: drive.umount(),
    "umount -i": lambda drive: run("umount", "-i", drive.mountpoint),
    "fusermount3": lambda drive: run("fusermount3", "-u", drive.mountpoint),
    "SIGTERM": lambda drive: os.kill(drive.process_id or 0, signal.SIGTERM),
}


def _utab() -> str:
    """All mounts of this machine are noted there, those of tests with odd names, too."""
    return os.fsdecode(UTAB.read_bytes()) if UTAB.exists() else ""


@pytest.mark.parametrize("way", WAYS)
def test_umount_is_told_that_there_is_a_helper(drive: MountedDrive, way: str) -> None:
    drive.mount()
    process = drive.process_id
    assert process is not None
    if not os.access(UTAB.parent, os.W_OK):
        pytest.skip("util-linux keeps no list of mounts here")
    (line,) = [line for line in _utab().split("\n") if f"TARGET={drive.mountpoint} " in line]
    assert "uhelper=drivefs" in line
    WAYS[way](drive)
    wait_for_end(process)
    assert str(drive.mountpoint) not in _utab()


@pytest.mark.skipif(not Path("/sbin/umount.drivefs").exists(), reason="needs make install-system")
def test_umount_of_an_absolute_path_stores_everything_first(drive: MountedDrive) -> None:
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "file").write_bytes(os.urandom(4 << 20))
    process = drive.process_id
    assert process is not None
    descriptor = os.pidfd_open(process)
    try:
        run("umount", drive.mountpoint)
        ended, _, _ = select.select([descriptor], [], [], 0)
    finally:
        os.close(descriptor)
    assert ended, "the helper waits until the process has stored all and ended; nobody has called it"


@needs_namespace
def test_allow_other_is_refused_where_fuse_conf_does_not_allow_it(unmade_drive: MountedDrive) -> None:
    allowed = Path("/etc/fuse.conf")
    if allowed.exists() and "user_allow_other" in allowed.read_text().split("\n"):
        pytest.skip("this system allows it")
    done = as_nobody(
        unmade_drive,
        """
        tool mkfs -q --key-file key "$FOLDER/drive" 2> warning
        tool mount "$FOLDER/drive" "$FOLDER/mnt" -o key_file="$FOLDER/key,allow_other"
        """,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "user_allow_other" in done.stderr


@pytest.mark.skipif(not Path("/sbin/mount.drivefs").exists(), reason="not in /sbin (make install-system)")
def test_a_line_of_fstab_is_mounted_at_boot(drive: MountedDrive) -> None:
    """As init does it: `mount -a`, with HOME not set and nothing to read from."""
    options = f"key_file={drive.key},{drive.folder_options()},allow_other,nofail,_netdev,x-systemd.automount"
    table = drive.folder / "fstab"
    table.write_text(
        f"{drive.drive} {drive.mountpoint} drivefs {options} 0 0\n"
        f"{drive.folder}/absent {drive.mountpoint} drivefs nofail,noauto 0 0\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    for content in ("first", "second"):
        run("mount", "-a", "-T", table, env=environment)
        run("mount", "-a", "-T", table, env=environment)  # what is mounted is left alone
        assert os.path.ismount(drive.mountpoint)
        (drive.mountpoint / content).write_text(content)
        run("umount", drive.mountpoint, env=environment)
        assert not os.path.ismount(drive.mountpoint)
    run("mount", "-T", table, drive.mountpoint, env=environment)
    for content in ("first", "second"):
        assert (drive.mountpoint / content).read_text() == content
    drive.umount()
