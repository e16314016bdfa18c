"""Large folders that change while they are listed, and positions in a listing."""

from __future__ import annotations

import ctypes
import os
import random
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


@pytest.mark.parametrize("seed", range(4))
def test_a_listing_that_renames_what_it_meets_ends(place: Path, seed: int) -> None:
    """As programs do that give all names a prefix; some files go elsewhere, and come back."""
    source = random.Random(seed)
    count, other = source.choice([1, 63, 64, 65, 700, 3000]), place / "other"
    other.mkdir()
    fill(place, count)
    met = []
    with os.scandir(place) as entries:
        for entry in entries:
            met.append(entry.name)
            assert len(met) <= count + 1
            if entry.name != "other":
                new = place / f"x{source.randint(0, 9)}{entry.name}"
                if source.random() < 0.2:
                    os.rename(entry, other / entry.name)
                    os.rename(other / entry.name, new)
                else:
                    os.rename(entry, new)
    assert sorted(met) == sorted(["other", *(f"entry {number}" for number in range(count))])
    assert len(os.listdir(place)) == count + 1


def test_a_listing_goes_as_far_as_what_was_there_when_it_began_anew(place: Path) -> None:
    fill(place, 300)
    with listing(place) as found:
        found.next()
        (place / "late").touch()
        assert b"late" not in found.rest()
        found.rewind()
        assert b"late" in found.rest()
