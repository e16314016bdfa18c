"""Who may look at what in `.versions`: who might then, and may now. The kernel's own answers, for the live
files then and now, are what is compared with.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cache.namespace import acl
from tests.mount.mounted import MountedDrive, perform
from tools.host import mounts

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users"),
]

SHARED_OPTIONS = ("commit_interval=1h",)
"""Only the tests commit: a commit in the middle of a write is one more version."""

USERS = ((12345, 12345), (12345, 23456), (23456, 23456), (34567, 34567))
"""(user, group)"""
CASES = 12


class Case:
    """A file in a folder, the permissions of both changed at random."""

    def __init__(self, top: Path, seed: int) -> None:
        self._source = random.Random(seed)
        self.folder = top / f"folder {seed}"
        self.file = self.folder / "file"
        self.folder.mkdir()
        self.file.write_text("content")

    def change(self) -> None:
        """Other permissions, sometimes of a new file in its place."""
        source = self._source
        if source.random() < 0.3:
            (self.folder / "new").write_text("content")
            (self.folder / "new").rename(self.file)
        for path, mostly in ((self.folder, 0o711), (self.file, 0o044)):
            path.chmod(source.getrandbits(9) | (mostly if source.random() < 0.6 else 0))
            os.chown(path, *source.choice(USERS))
            if source.random() < 0.4:
                self._set_list(path)

    def _set_list(self, path: Path) -> None:
        source = self._source
        owner, group, other = acl.of_mode(path.stat().st_mode)
        entries = (
            *(owner, acl.AclEntry(acl.USER, source.randint(0, 7), source.choice(USERS)[0])),
            *(group, acl.AclEntry(acl.GROUP, source.randint(0, 7), source.choice(USERS)[1])),
            *(acl.AclEntry(acl.MASK, source.randint(0, 7)), other),
        )
        os.setxattr(path, acl.ACCESS, acl.encode(entries))

    @staticmethod
    def answers(folder: Path) -> list[list[bool]]:
        """For each user, whether he can read the file, and whether he can list the folder."""
        calls: list[tuple[Any, ...]] = [("open", folder / "file", os.O_RDONLY), ("listdir", folder)]
        return [[said == "ok" for said in perform(user, *calls, group=group)] for user, group in USERS]


def newest(top: Path) -> Path:
    """The newest state, by a name that stays."""
    return top / ".versions" / os.readlink(top / ".versions" / "latest")


def test_past_and_present_permissions_apply(shared: MountedDrive, place: Path) -> None:
    cases = [Case(place, seed) for seed in range(CASES)]
    states: list[tuple[Path, list[list[list[bool]]]]] = []
    for _ in range(3):
        for case in cases:
            case.change()
        shared.sync()
        now = [case.answers(case.folder) for case in cases]
        states.append((newest(place), now))
        for state, then in states:
            for case, before, present in zip(cases, then, now, strict=True):
                expected = [
                    [was and may for was, may in zip(*both, strict=True)]
                    for both in zip(before, present, strict=True)
                ]
                assert case.answers(state / case.folder.name) == expected, (state, case.folder)
    assert any(any(map(any, each)) for each in states[0][1])


def test_what_is_gone_is_as_closed_as_it_was_last(shared: MountedDrive, place: Path) -> None:
    for name in ("closed", "open"):
        (place / name).mkdir()
        (place / name / "file").write_text(name)
    shared.sync()
    state = newest(place)
    (place / "closed").chmod(0o700)
    shared.sync()
    for name in ("closed", "open"):
        shutil.rmtree(place / name)
    shared.sync()
    calls = [("open", state / name / "file", os.O_RDONLY) for name in ("closed", "open")]
    assert perform(12345, *calls) == ["EACCES", "ok"]


def test_versions_of_a_file_that_was_closed(shared: MountedDrive, place: Path) -> None:
    """Also through "write new, rename over", after which another inode has the name."""
    path = place / "file"
    path.write_text("1")
    shared.sync()
    (place / "new").write_text("2")
    (place / "new").rename(path)
    shared.sync()
    versions = [*(place / ".versions" / "by-name" / "file").iterdir()]
    calls = [("open", version, os.O_RDONLY) for version in versions]
    assert perform(12345, *calls) == ["ok", "ok"]
    path.chmod(0o600)
    assert perform(12345, *calls) == ["EACCES", "EACCES"]
    path.chmod(0o604)
    assert perform(12345, *calls) == ["ok", "ok"]


def test_the_past_gives_no_privileges(shared: MountedDrive, place: Path) -> None:
    program = place / "program"
    shutil.copy(shutil.which("id") or "", program)
    program.chmod(0o6755)
    os.setxattr(program, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    shared.sync()
    state = newest(place) / "program"
    program.chmod(0o755)
    shared.sync()
    assert state.stat().st_mode & 0o7777 == 0o755
    assert os.listxattr(state) == []
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(state, "security.capability")
    said = subprocess.run(
        [state, "-u"], user=12345, group=12345, extra_groups=[], capture_output=True, check=True
    )
    assert said.stdout.strip() == b"12345"


def test_a_mount_as_of_a_time_shows_modes_and_gives_no_privileges(drive: MountedDrive) -> None:
    drive.mount()
    program = drive.mountpoint / "program"
    program.write_text("")
    program.chmod(0o6755)
    drive.sync()
    time = newest(drive.mountpoint).name
    drive.umount()
    drive.mount(f"asof={time}", "suid")
    assert program.stat().st_mode & 0o7777 == 0o6755
    found = mounts.find(str(drive.mountpoint))
    assert found is not None
    assert "nosuid" in found.options


def test_access_and_open_agree_that_nothing_can_be_written(shared: MountedDrive, place: Path) -> None:
    (place / "folder").mkdir()
    (place / "folder" / "file").write_text("as it was")
    (place / "folder" / "file").chmod(0o666)
    os.symlink("file", place / "folder" / "link")
    shared.sync()
    hidden = place / ".versions"
    folder = newest(place) / "folder"
    version = next((hidden / ".." / "folder" / ".versions" / "by-name" / "file").iterdir())
    for path in (
        hidden,
        hidden / "by-name",
        newest(place),
        folder,
        folder / "file",
        folder / "link",
        version,
    ):
        for mode in (os.R_OK, os.F_OK):
            assert os.access(path, mode), path
        for _ in range(20):
            assert not os.access(path, os.W_OK), path
            assert not os.access(path, os.R_OK | os.W_OK, effective_ids=True), path
    assert os.access(place / "folder" / "file", os.W_OK)
    with pytest.raises(OSError, match="Read-only"):
        (folder / "file").open("a")
