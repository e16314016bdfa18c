"""How much the nodes grow by what is written: parity, dedup and compression, measured on the disk."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.contents import KINDS, Kind, content
from tests.mount.mounted import MountedDrive, run
from tests.mount.reading import wrong_orders
from tests.mount.trees import LIBRARY

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE = int(os.environ.get("SIZES_MIB", "192")) * MIB


class Growth:
    """Measures a mounted drive from one `since_last` to the next."""

    def __init__(self, drive: MountedDrive) -> None:
        self.drive = drive
        self.since_last()

    def since_last(self) -> int:
        """Bytes that the nodes' disk holds more than before, once all is stored."""
        self.drive.sync()
        before, self._last = getattr(self, "_last", 0), self.drive.bytes_on_nodes()
        return self._last - before


@pytest.fixture
def growth(drive: MountedDrive) -> Growth:
    drive.mount()
    return Growth(drive)


def prose(size: int, seed: int) -> bytes:
    """Compressible bytes that do not repeat: words of a made-up language in random order."""
    source = random.Random(seed)
    words = [
        bytes(source.choices(b"etaoinshrdlucmfwypvbgkjqxz", k=source.randint(2, 10))) for _ in range(4000)
    ]
    lines, length = [], 0
    while length < size:
        lines.append(b" ".join(source.choices(words, k=20_000)))
        length += len(lines[-1]) + 1
    return b"\n".join(lines)[:size]


def write_random(path: Path, size: int, first: bytes = b"") -> None:
    """`first`, then `size` random bytes, the same at each call."""
    source = random.Random(11)
    with open(path, "wb") as file:
        file.write(first)
        for _ in range(0, size, MIB):
            file.write(source.randbytes(MIB))


def test_random_data_a_second_copy_and_one_with_a_byte_in_front(growth: Growth) -> None:
    folder = growth.drive.mountpoint
    write_random(folder / "first", SIZE)
    assert growth.since_last() <= 1.53 * SIZE
    write_random(folder / "copy", SIZE)
    assert growth.since_last() < 0.01 * SIZE
    write_random(folder / "shifted", SIZE, b"!")
    assert growth.since_last() < 0.03 * SIZE


def test_prose(growth: Growth) -> None:
    text = prose(SIZE // 2, 3)
    (growth.drive.mountpoint / "prose").write_bytes(text)
    assert growth.since_last() < 0.7 * len(text)


LIMITS: dict[Kind, float] = {
    "text": 0.45,
    "log": 0.45,
    "json": 0.75,
    "zeros": 0.01,
    "half-compressible": 0.9,
    "random": 1.55,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_grows_by_what_it_is_worth_and_is_read_again(growth: Growth, kind: Kind) -> None:
    data, path = content(kind, 12 * MIB, "sizes"), growth.drive.mountpoint / "file"
    path.write_bytes(data)
    grown = growth.since_last()
    assert grown < LIMITS[kind] * len(data), f"{grown / len(data):.3f} of its size"
    growth.drive.umount()
    growth.drive.wipe_cache()
    growth.drive.mount()
    assert wrong_orders(path, data) == []


def test_a_folder_of_source_and_data(growth: Growth) -> None:
    """CPython's own tests: restic keeps them in 0.22 of their size, and has no parity."""
    tests = LIBRARY / "test"
    if not (tests / "test_mmap.py").exists():
        pytest.skip("this Python comes without its test folder")
    run("cp", "-a", tests, growth.drive.mountpoint)
    size = sum(path.lstat().st_size for path in tests.rglob("*") if path.is_file())
    assert growth.since_last() < 0.36 * size
