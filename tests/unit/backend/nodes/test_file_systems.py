"""Which file systems are of one machine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.nodes import file_systems

MOUNTS = [
    "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "2 1 8:2 / /home rw - btrfs /dev/sda2 rw",
    "3 1 0:40 / /mnt/with\\040blank rw - nfs4 server:/export rw",
    "4 1 0:41 / /mnt/s rw shared:9 master:3 - fuse.sshfs host: rw",
    "5 1 0:42 / /mnt/disk rw - fuseblk /dev/sdb1 rw",
    "6 2 0:43 / /home/share rw - cifs //host/share rw",
    "7 2 0:44 / /home/share rw - xfs /dev/sdc rw",
]


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/", "ext4", False),
        ("/srv/node", "ext4", False),
        ("/home", "btrfs", False),
        ("/homework", "ext4", False),
        ("/mnt/with blank/node", "nfs4", True),
        ("/mnt/s", "fuse.sshfs", True),
        ("/mnt/disk/node", "fuseblk", False),
        ("/home/share/node", "xfs", False),
    ],
)
def test_a_folder_is_on_the_innermost_mount(
    path: str, kind: str, shared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert file_systems.kind_of(path, MOUNTS) == kind
    monkeypatch.setattr(file_systems, "kind_of", lambda _path, _mounts: kind)
    assert file_systems.is_shared(str(tmp_path)) == shared


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "fuse.rclone", "lustre"]
)
def test_what_other_machines_serve_is_shared(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "kind_of", lambda _path, _mounts: kind)
    assert file_systems.is_shared("/")


def test_the_disk_of_this_test_is_known(tmp_path: Path) -> None:
    assert file_systems.kind_of(str(tmp_path.resolve()), file_systems.mounts_in("/proc/self/mountinfo"))


def test_any_byte_in_the_name_of_a_mountpoint_is_one_line(tmp_path: Path) -> None:
    """Carriage returns and other separators too, and what is no text."""
    table = tmp_path / "mountinfo"
    odd = b"2 1 0:2 / /mnt/a\rb\x0bc\x1cd\xc3\x85 rw - fuse x rw\n"
    table.write_bytes(b"1 0 0:1 / / rw - ext4 /dev/a rw\n" + odd + b"3 1 0:3 / /srv rw - nfs4 h:/ rw\n")
    lines = file_systems.mounts_in(str(table))
    assert len(lines) == 3
    assert file_systems.kind_of("/srv/x", lines) == "nfs4"
    assert file_systems.kind_of("/mnt/x", lines) == "ext4"
