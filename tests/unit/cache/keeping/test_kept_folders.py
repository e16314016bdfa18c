"""The list of kept folders: its codec, and what becomes of it on a disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import THIS_MACHINE, Durable, Environment
from cache.errors import InvalidArgumentError
from cache.keeping import FILE, KeptFolder, KeptFolders, decode, encode
from cache.keeping.kept_folders import MOST

ONE, TWO = KeptFolder(5, 1_000), KeptFolder(7, -2_000)
FOLDERS = st.builds(KeptFolder, st.integers(1, (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1))


@given(st.lists(FOLDERS, max_size=20))
def test_what_is_listed_is_read(folders: list[KeptFolder]) -> None:
    assert decode(encode(folders)) == folders


def test_bytes_made_by_hand() -> None:
    assert decode(b'{"version": 1, "folders": [{"inode": 5, "born_ns": 1000}]}') == [ONE]


@pytest.mark.parametrize("data", [b'{"version": 2, "folders": []}', b'{"version": "1"}'])
def test_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


@pytest.mark.parametrize(
    "folders",
    [
        None,
        [5],
        [{"inode": 0, "born_ns": 0}],
        [{"inode": True, "born_ns": 0}],
        [{"inode": 1 << 63, "born_ns": 0}],
        [{"inode": 1, "born_ns": 0.5}],
        [{"inode": 1}],
        [{"inode": 1, "born_ns": 0}] * (MOST + 1),
    ],
)
def test_what_is_no_list_is_refused(folders: object) -> None:
    with pytest.raises(CorruptError):
        decode(json.dumps({"version": 1, "folders": folders}).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    with pytest.raises((CorruptError, FormatError)):
        decode(data)


def test_it_survives_and_forgets(tmp_path: Path) -> None:
    folders = KeptFolders(tmp_path, THIS_MACHINE)
    for each in (ONE, TWO, ONE):
        folders.add(each)
    assert list(KeptFolders(tmp_path, THIS_MACHINE)()) == [ONE, TWO]
    folders.remove([ONE])
    folders.remove([ONE])
    assert list(KeptFolders(tmp_path, THIS_MACHINE)()) == [TWO]


class FullDisk(Durable):
    def write_file(
        self,
        path: str,
        parts: Sequence[Buffer],
        *,
        exclusive: bool = False,
        mode: int = 0o600,
        folder: int | None = None,
    ) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_written_is_not_listed(tmp_path: Path) -> None:
    folders = KeptFolders(tmp_path, Environment(FullDisk()))
    with pytest.raises(OSError, match="No space left"):
        folders.add(ONE)
    assert list(folders()) == []


def test_there_are_not_too_many(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(encode(KeptFolder(number, 0) for number in range(1, MOST + 1)))
    folders = KeptFolders(tmp_path, THIS_MACHINE)
    with pytest.raises(InvalidArgumentError, match="keep one above them"):
        folders.add(KeptFolder(MOST + 1, 0))


def test_a_list_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"what another version wrote")
    folders = KeptFolders(tmp_path, THIS_MACHINE)
    assert "cannot be read" in folders.problem
    with pytest.raises(InvalidArgumentError, match="move it away"):
        folders.add(ONE)
    assert (tmp_path / FILE).read_bytes() == b"what another version wrote"
