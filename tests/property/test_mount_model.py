"""Random calls on a real mount and on a folder of the local disk: results and errnos are the same.

The local file system (ext4 or the like) is the reference, so the model has no opinion of its own. The drive
is synced between the calls; after some examples it is unmounted, mounted again, in turn with an empty
cache, and all is compared.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contents import KINDS, Kind, content
from tests.mount.conftest import fuse, unmade_drive
from tests.mount.mounted import MountedDrive
from tests.mount.reading import ORDERS, Order, read_whole
from tools.control_client import ControlClient

__all__ = ["fuse", "unmade_drive"]

pytestmark = pytest.mark.mount

EXAMPLES: Final = int(os.environ.get("MOUNT_MODEL_EXAMPLES", "12"))
STEPS: Final = int(os.environ.get("MOUNT_MODEL_STEPS", "60"))
REMOUNT_EVERY: Final = int(os.environ.get("MOUNT_MODEL_REMOUNT_EVERY", "6"))
LARGEST: Final = 1 << 20

names = st.sampled_from(["a", "b", "c", "ä", "\udcff", "n" * 255])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
modes = st.sampled_from([0o600, 0o644, 0o755, 0o4711, 0o2750])
offsets = st.one_of(st.integers(0, 20), st.integers(0, LARGEST), st.sampled_from([4095, 4096, 4097, 262_144]))
lengths = st.one_of(st.integers(0, 20), st.integers(0, 300_000), st.sampled_from([4096, 131_072]))
kinds, seeds, orders = st.sampled_from(KINDS), st.integers(0, 255), st.sampled_from(ORDERS)
attributes = st.sampled_from(["user.a", "user.b", "user." + "n" * 250])
values = st.binary(max_size=50)
moments = st.integers(0, 15_032_385_534 * 10**9)  # to 2446, where ext4 ends
Call = Callable[[Path], object]


def outcome(call: Call, top: Path) -> object:
    """What `call` returns, or the name of its errno."""
    try:
        return call(top)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def write(path: Path, flags: int, offset: int, data: bytes) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)  # a FIFO without a reader refuses then
    try:
        return os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def described(top: Path, order: Order) -> Iterator[tuple[Any, ...]]:
    """All that is under `top`, with attributes, and contents read in `order`; names that are one file have
    one mark."""
    marks: dict[int, int] = {}
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        content: object = None
        if stat.S_ISREG(found.st_mode):
            content = read_whole(path, order)
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        size = found.st_size if not stat.S_ISDIR(found.st_mode) else 0
        yield (
            path.relative_to(top).as_posix(),
            found.st_mode,
            found.st_nlink,
            marks.setdefault(found.st_ino, len(marks)),
            size,
            content,
            {name: os.getxattr(path, name) for name in os.listxattr(path)} if not path.is_symlink() else None,
        )


class MountModel(RuleBasedStateMachine):
    """Each example works in new folders of the one drive that `drive` names."""

    drive: MountedDrive
    folders = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).folders += 1
        self.mounted = self.drive.mountpoint / f"example {self.folders}"
        self.local = self.drive.folder / f"example {self.folders}"
        self.opened: list[tuple[int, int]] = []
        for folder in (self.mounted, self.local):
            folder.mkdir()

    def teardown(self) -> None:
        try:
            self._same_trees()
        finally:
            self._close_all()  # else the drive cannot be unmounted
        if self.folders % REMOUNT_EVERY == 0:
            self.drive.umount()
            if self.folders % (2 * REMOUNT_EVERY) == 0:
                self.drive.wipe_cache()
            self.drive.mount("commit_interval=200ms")
            self._same_trees()

    def _same(self, call: Call) -> None:
        assert outcome(call, self.mounted) == outcome(call, self.local)

    def _same_trees(self) -> None:
        order = ORDERS[self.folders % len(ORDERS)]
        assert [*described(self.mounted, order)] == [*described(self.local, order)]

    def _close_all(self) -> None:
        while self.opened:
            for descriptor in self.opened.pop():
                os.close(descriptor)

    @invariant()
    def same_names(self) -> None:
        self._same(lambda top: sorted(os.listdir(top)))

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self._same(lambda top: os.mkdir(top / path, mode))

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self._same(lambda top: os.rmdir(top / path))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self._same(lambda top: os.unlink(top / path))

    @rule(
        path=paths,
        flags=st.sampled_from(
            [os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC, 0, os.O_APPEND]
        ),
        offset=offsets,
        kind=kinds,
        seed=seeds,
        length=lengths,
    )
    def write(self, path: str, flags: int, offset: int, kind: Kind, seed: int, length: int) -> None:
        data = content(kind, length, seed)
        self._same(lambda top: write(top / path, os.O_WRONLY | flags, offset, data))

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self._same(lambda top: os.truncate(top / path, size))

    @rule(path=paths, content=paths)
    def symlink(self, path: str, content: str) -> None:
        self._same(lambda top: os.symlink(content, top / path))

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self._same(lambda top: os.link(top / old, top / new, follow_symlinks=False))

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self._same(lambda top: os.rename(top / old, top / new))

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self._same(lambda top: os.chmod(top / path, mode))

    @rule(path=paths)
    def mkfifo(self, path: str) -> None:
        self._same(lambda top: os.mkfifo(top / path, 0o640))

    @rule(
        path=paths,
        name=attributes,
        value=values,
        flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def set_attribute(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._same(lambda top: os.setxattr(top / path, name, value, flags))

    @rule(path=paths, name=attributes)
    def remove_attribute(self, path: str, name: str) -> None:
        self._same(lambda top: os.removexattr(top / path, name))

    @rule(path=paths, times=st.tuples(moments, moments))
    def times(self, path: str, times: tuple[int, int]) -> None:
        def set_and_get(top: Path) -> object:
            os.utime(top / path, ns=times, follow_symlinks=False)
            return os.lstat(top / path).st_mtime_ns

        self._same(set_and_get)

    @rule(path=paths, order=orders, seed=seeds)
    def read(self, path: str, order: Order, seed: int) -> None:
        def read(top: Path) -> object:
            if stat.S_ISFIFO(os.stat(top / path).st_mode):
                return "fifo"  # to open it would wait for a writer
            return read_whole(top / path, order, seed)

        self._same(read)

    @rule(path=paths)
    def open_and_keep(self, path: str) -> None:
        pair = []
        for top in (self.mounted, self.local):
            try:
                pair.append(os.open(top / path, os.O_RDWR | os.O_NONBLOCK))
            except OSError as error:
                pair.append(-(error.errno or 0))
        assert (pair[0] >= 0) == (pair[1] >= 0)
        assert pair[0] >= 0 or pair[0] == pair[1]
        if pair[0] >= 0:
            self.opened.append((pair[0], pair[1]))

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 100), offset=offsets, kind=kinds, seed=seeds, length=lengths, size=offsets)
    def use_what_is_open(
        self, which: int, offset: int, kind: Kind, seed: int, length: int, size: int
    ) -> None:
        """Also of files whose last name is gone."""
        pair = self.opened[which % len(self.opened)]
        if not stat.S_ISREG(os.fstat(pair[1]).st_mode):
            return
        data = content(kind, length, seed)
        for descriptor in pair:
            os.pwrite(descriptor, data, offset)
            os.ftruncate(descriptor, size)
        found = [
            (os.fstat(each).st_size, os.fstat(each).st_nlink, os.pread(each, LARGEST, 0)) for each in pair
        ]
        assert found[0] == found[1]

    @precondition(lambda self: self.opened)
    @rule()
    def close_all(self) -> None:
        self._close_all()

    @rule()
    def sync(self) -> None:
        ControlClient.of_mount(str(self.drive.mountpoint)).sync(str(self.drive.mountpoint), 60)


def test_a_mount_behaves_as_a_local_folder(unmade_drive: MountedDrive) -> None:
    unmade_drive.make()
    unmade_drive.mount("commit_interval=200ms")

    class OnThisDrive(MountModel):
        drive = unmade_drive

    run_state_machine_as_test(
        OnThisDrive,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
