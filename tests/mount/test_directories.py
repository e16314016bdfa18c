"""Large folders that change while they are listed, and positions in a listing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive

pytestmark = pytest.mark.mount

ENTRIES = 20_000


class Entry(ctypes.Structure):
    """`struct dirent` of 64-bit Linux (readdir(3))."""

    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Entry)
libc.telldir.restype = ctypes.c_long


class Listing:
    """opendir(3) and its relatives."""

    def __init__(self, folder: Path) -> None:
        self._stream = ctypes.c_void_p(libc.opendir(os.fsencode(folder)))
        assert self._stream

    def next(self) -> bytes | None:
        entry = libc.readdir(self._stream)
        return bytes(entry.contents.name) if entry else None

    def rest(self) -> list[bytes]:
        return [*iter(self.next, None)]

    def tell(self) -> int:
        return int(libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        libc.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        libc.rewinddir(self._stream)

    def close(self) -> None:
        libc.closedir(self._stream)


@contextmanager
def listing(folder: Path) -> Iterator[Listing]:
    with closing(Listing(folder)) as found:
        yield found


def fill(folder: Path, count: int) -> None:
    for number in range(count):
        os.close(os.open(folder / f"entry {number}", os.O_CREAT | os.O_WRONLY))


def test_a_large_folder_listed_while_it_changes(shared: MountedDrive, place: Path) -> None:
    fill(place, ENTRIES)
    seen = []
    with os.scandir(place) as entries:
        for at, entry in enumerate(entries):
            seen.append(entry.name)
            if at % 10 == 0:
                (place / f"entry {at * 7919 % ENTRIES}").unlink(missing_ok=True)
                (place / f"new {at}").touch()
    assert len(seen) == len(set(seen))
    left = set(os.listdir(place))
    assert {name for name in left if name.startswith("entry")} <= set(seen)
    assert len(left) == ENTRIES - len({at * 7919 % ENTRIES for at in range(0, len(seen), 10)}) + sum(
        name.startswith("new") for name in left
    )


def test_positions_stay_while_entries_come_and_go(place: Path) -> None:
    fill(place, 300)
    with listing(place) as found:
        first = [found.next() for _ in range(150)]
        position = found.tell()
        rest = found.rest()
        for name in [*first[10:20], *rest[10:20]]:
            assert name is not None
            os.unlink(os.path.join(os.fsencode(place), name))
        (place / "later").touch()
        found.rewind()
        assert len(found.rest()) == 300 + 2 + 1 - 20
        found.seek(position)
        again = found.rest()
    assert [name for name in again if name != b"later"] == rest[:10] + rest[20:]


def test_every_position_leads_to_its_entry(place: Path) -> None:
    fill(place, 100)
    with listing(place) as found:
        positions = []
        while True:
            position = found.tell()
            name = found.next()
            if name is None:
                break
            positions.append((position, name))
        for position, name in reversed(positions):
            found.seek(position)
            assert found.next() == name


def test_removing_while_listing_empties_a_folder(place: Path) -> None:
    """What `rm -r` does."""
    fill(place, 1_000)
    with os.scandir(place) as entries:
        for entry in entries:
            os.unlink(entry)
    assert os.listdir(place) == []
    place.rmdir()
