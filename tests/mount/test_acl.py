"""POSIX ACLs on a mount: what setfacl and getfacl say, what the kernel enforces, what programs copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, which takes root"),
    pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl (package acl) is not installed"),
]

USER, OTHER_USER, GROUP = 12_345, 12_346, 23_456


@pytest.fixture
def folder(drive: MountedDrive) -> Path:
    drive.mount("allow_other")
    path = drive.mountpoint / "folder"
    path.mkdir()
    path.chmod(0o755)
    return path


def setfacl(*arguments: str | Path) -> None:
    subprocess.run(["setfacl", *map(str, arguments)], check=True, timeout=30)


def getfacl(path: Path) -> str:
    command = ["getfacl", "--omit-header", "--numeric", "--absolute-names", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def as_user(user: int, *command: str | Path, group: int = 65534, umask: int = 0o022) -> int:
    done = subprocess.run(
        [str(part) for part in command],
        user=user,
        group=group,
        extra_groups=[],
        umask=umask,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_list_is_enforced_and_follows_the_mode(folder: Path) -> None:
    file = folder / "file"
    file.write_text("secret")
    file.chmod(0o600)
    assert as_user(USER, "cat", file) != 0
    setfacl("-m", f"u:{USER}:r", file)
    assert mode(file) == 0o640
    assert as_user(USER, "cat", file) == 0
    assert as_user(OTHER_USER, "cat", file) != 0
    assert getfacl(file) == f"user::rw-\nuser:{USER}:r--\ngroup::---\nmask::r--\nother::---"
    file.chmod(0o600)
    assert "mask::---" in getfacl(file)
    assert as_user(USER, "cat", file) != 0
    file.chmod(0o664)
    assert f"user:{USER}:r--\ngroup::---\nmask::rw-\nother::r--" in getfacl(file)
    setfacl("-b", file)
    assert os.listxattr(file) == []
    assert getfacl(file).count("\n") == 2


def test_a_named_group_is_enforced(folder: Path) -> None:
    file = folder / "file"
    file.write_text("x")
    file.chmod(0o600)
    setfacl("-m", f"g:{GROUP}:rw", file)
    assert as_user(USER, "cat", file) != 0
    assert as_user(USER, "cat", file, group=GROUP) == 0
    assert as_user(USER, "tee", file, group=GROUP) == 0


def test_default_lists_are_inherited_and_the_umask_then_is_not_applied(folder: Path) -> None:
    setfacl("-d", "-m", f"u:{USER}:rwx,g::rwx,o::r-x", folder)
    old = os.umask(0o077)
    try:
        (folder / "file").touch()
        (folder / "inner").mkdir()
        (folder / "inner" / "deep").touch()
        descriptor = os.open(folder / "private", os.O_CREAT | os.O_WRONLY, 0o600)
        os.close(descriptor)
        os.mkfifo(folder / "fifo", 0o666)
        os.symlink("file", folder / "link")
    finally:
        os.umask(old)
    assert mode(folder / "file") == 0o664
    assert mode(folder / "fifo") == 0o664
    assert mode(folder / "inner") == 0o775
    assert mode(folder / "private") == 0o600
    assert as_user(USER, "cat", folder / "private") != 0
    assert as_user(USER, "cat", folder / "file") == 0
    entries = [line.split()[0] for line in getfacl(folder / "file").splitlines()]
    assert entries == ["user::rw-", f"user:{USER}:rwx", "group::rwx", "mask::rw-", "other::r--"]
    assert f"default:user:{USER}:rwx" in getfacl(folder / "inner")
    assert f"user:{USER}:rwx" in getfacl(folder / "inner" / "deep")


def test_without_a_default_list_the_umask_is_applied(folder: Path) -> None:
    for umask, expected in ((0o022, 0o644), (0o077, 0o600), (0, 0o666)):
        old = os.umask(umask)
        try:
            (folder / f"file{umask}").touch()
            (folder / f"folder{umask}").mkdir()
        finally:
            os.umask(old)
        assert mode(folder / f"file{umask}") == expected
        assert mode(folder / f"folder{umask}") == 0o777 & ~umask


def test_only_the_owner_may_set_a_list_and_a_file_has_no_default_one(folder: Path) -> None:
    file = folder / "file"
    file.touch()
    assert as_user(USER, "setfacl", "-m", f"u:{USER}:rwx", file) != 0
    os.chown(file, USER, GROUP)
    assert as_user(USER, "setfacl", "-m", f"u:{OTHER_USER}:r", file) == 0
    with pytest.raises(PermissionError):
        os.setxattr(file, "system.posix_acl_default", os.getxattr(file, "system.posix_acl_access"))
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(file, "system.posix_acl_access", b"\2\0\0\0nonsense")


def test_set_group_id_goes_when_a_stranger_to_the_group_sets_a_list(folder: Path) -> None:
    file = folder / "file"
    file.touch()
    os.chown(file, USER, GROUP)
    file.chmod(0o2750)
    assert as_user(USER, "setfacl", "-m", f"u:{OTHER_USER}:r", file, group=GROUP) == 0
    assert mode(file) == 0o2750
    assert as_user(USER, "setfacl", "-m", f"u:{OTHER_USER}:rx", file) == 0
    assert mode(file) == 0o750


def test_lists_are_there_after_a_remount_and_in_versions(folder: Path, drive: MountedDrive) -> None:
    file = folder / "file"
    file.write_text("x")
    setfacl("-m", f"u:{USER}:r", file)
    before = getfacl(file)
    drive.sync()
    setfacl("-m", f"u:{USER}:-", file)
    drive.sync()
    drive.umount()
    drive.wipe_cache()
    drive.mount("allow_other")
    assert f"user:{USER}:---" in getfacl(file)
    states = sorted(name for name in os.listdir(folder / ".versions") if name[0] == "2")
    assert before in {getfacl(folder / ".versions" / name / "file") for name in states}


def test_who_may_not_list_a_folder_may_not_list_its_past(folder: Path, drive: MountedDrive) -> None:
    (folder / "file").touch()
    drive.sync()
    places = (folder, folder / ".versions", folder / ".versions" / "by-name")
    for listed, allowed, refused in (("x", OTHER_USER, USER), ("rx,o::-", USER, OTHER_USER)):
        setfacl("-m", f"u:{USER}:{listed}", folder)
        for place in places:
            assert as_user(allowed, "ls", place) == 0, (listed, place)
            assert as_user(refused, "ls", place) != 0, (listed, place)


def test_programs_carry_lists_along(folder: Path, tmp_path: Path) -> None:
    tree = folder / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").write_text("x")
    setfacl("-m", f"u:{USER}:rw,d:g:{GROUP}:rx", tree / "inner")
    setfacl("-m", f"u:{USER}:r", tree / "inner" / "file")
    expected = [getfacl(tree / "inner"), getfacl(tree / "inner" / "file")]
    commands = [
        ["cp", "-a", str(tree), f"{folder}/cp"],
        ["sh", "-c", f"mkdir {folder}/tar; tar -C {tree} --acls -cf - . | tar -C {folder}/tar --acls -xf -"],
    ]
    if shutil.which("rsync"):
        commands.append(["rsync", "-aA", f"{tree}/", f"{folder}/rsync"])
    for command in commands:
        subprocess.run(command, check=True, timeout=60)
    for copy in [folder / "cp", folder / "tar", folder / "rsync"][: len(commands)]:
        assert [getfacl(copy / "inner"), getfacl(copy / "inner" / "file")] == expected


def test_noacl_refuses_lists_inherits_none_and_applies_the_umask(folder: Path, drive: MountedDrive) -> None:
    setfacl("-d", "-m", f"u:{USER}:rwx", folder)
    drive.umount()
    drive.mount("allow_other,noacl")
    assert os.listxattr(folder) == []
    file = folder / "file"
    old = os.umask(0o027)
    try:
        file.touch()
    finally:
        os.umask(old)
    assert mode(file) == 0o640
    refused = subprocess.run(
        ["setfacl", "-m", f"u:{USER}:r", str(file)], capture_output=True, check=False, timeout=30
    )
    assert refused.returncode != 0
    assert b"not supported" in refused.stderr
