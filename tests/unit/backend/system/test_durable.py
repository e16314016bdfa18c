"""Durable file I/O: whole files or none, in the right order, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.buffer import Buffer
from backend.system.durable import Durable

DISK = Durable()


class Recorder(Durable):
    """Notes the calls in order; fails at the one named by `fail`; writes short if told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail = ""

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fail:
            raise OSError(5, f"{call} failed")

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self._note("write")
        return super().write(descriptor, parts, offset)

    def sync(self, descriptor: int) -> None:
        self._note("sync")
        super().sync(descriptor)

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        self._note("rename")
        super().rename(old, new, folder=folder)

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        self._note("link")
        super().link(old, new, folder=folder)

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        self._note("sync_folder")
        super().sync_folder(path, folder=folder)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_a_file_is_replaced_in_the_order_that_survives_a_power_cut(
    tmp_path: Path, recorder: Recorder
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    recorder.write_file(str(path), [b"ne", b"w"])
    assert path.read_bytes() == b"new"
    assert recorder.calls == ["write", "sync", "rename", "sync_folder", "sync"]
    assert os.listdir(tmp_path) == ["file"]


def test_exclusive_creation_has_one_winner(tmp_path: Path, recorder: Recorder) -> None:
    path = tmp_path / "file"
    recorder.write_file(str(path), [b"one"], exclusive=True)
    assert recorder.calls[:3] == ["write", "sync", "link"]
    with pytest.raises(FileExistsError):
        recorder.write_file(str(path), [b"two"], exclusive=True)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_failed_step_leaves_the_old_file_and_no_other(
    tmp_path: Path, recorder: Recorder, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    recorder.fail = step
    with pytest.raises(OSError, match=step):
        recorder.write_file(str(path), [b"new"])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_many_parts_and_an_offset(tmp_path: Path) -> None:
    """More parts than one pwritev takes (IOV_MAX), so the rest goes by other writes."""
    parts = [bytes([number % 256]) * (number % 7) for number in range(1500)]
    descriptor = DISK.open(str(tmp_path / "file"), os.O_RDWR | os.O_CREAT)
    try:
        assert DISK.write(descriptor, parts, 10) == len(b"".join(parts))
        DISK.sync_data(descriptor)
        assert os.pread(descriptor, 10_000, 10) == b"".join(parts)
        assert os.get_inheritable(descriptor) is False
    finally:
        os.close(descriptor)


def test_preallocation_keeps_later_writes_from_changing_the_size(tmp_path: Path) -> None:
    descriptor = DISK.open(str(tmp_path / "file"), os.O_RDWR | os.O_CREAT)
    try:
        DISK.preallocate(descriptor, 8192)
        DISK.write(descriptor, [b"x" * 100], 4000)
        assert os.fstat(descriptor).st_size == 8192
    finally:
        os.close(descriptor)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    DISK.write_file(str(tmp_path / "file"), [b"x"])
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o600


def test_missing_folders_are_made_durable_from_the_top(tmp_path: Path) -> None:
    """A folder whose own name a power cut takes would take all that was synced in it."""
    calls: list[tuple[str, str]] = []

    class Noting(Durable):
        def make_folder(self, path: str, *, folder: int | None = None) -> None:
            calls.append(("make", path))
            super().make_folder(path, folder=folder)

        def sync_folder(self, path: str, *, folder: int | None = None) -> None:
            calls.append(("sync", path))
            super().sync_folder(path, folder=folder)

    Noting().make_folders(str(tmp_path / "a/b"))
    assert calls == [
        ("make", str(tmp_path / "a")),
        ("sync", str(tmp_path)),
        ("make", str(tmp_path / "a/b")),
        ("sync", str(tmp_path / "a")),
    ]
    Noting().make_folders(str(tmp_path / "a/b"))
    assert len(calls) == 4


def test_a_file_where_a_folder_is_to_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        DISK.make_folders(str(tmp_path / "a"))
