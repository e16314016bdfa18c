"""A disk that forgets: `Durable` whose unsynced writes and names can be lost, torn or reordered.

Invariants:
1. While the process lives, reads see all writes (they go to the real files).
2. `cut` leaves each file as some disk could have it: what was synced is there; of the writes since the
   last sync of the file, in 512-byte sectors, any subset is there.
3. A name that was made, moved or removed since its folder was synced may be as it was before. Names
   change in order: some first part of the changes survives, as a journaling file system has it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from backend.durable import Durable
from backend.node import Buffer

SECTOR = 512


@dataclass
class _File:
    """What the disk surely holds, and what came since: (offset, bytes)."""

    synced: bytes
    writes: list[tuple[int, bytes]] = field(default_factory=list)


class LossyDurable(Durable):
    """In force from the first write of the test on. Thread-safe as far as one writer needs it."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._files: dict[int, _File] = {}
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self.syncs = 0

    def _file(self, descriptor: int) -> _File:
        number = os.fstat(descriptor).st_ino
        if number not in self._files:
            path = f"/proc/self/fd/{descriptor}"
            self._files[number] = _File(Path(path).read_bytes())
        return self._files[number]

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        existed = os.path.exists(path)
        descriptor = super().open(path, flags, mode)
        if not existed:
            self._undo.append((os.path.dirname(path), lambda: Path(path).unlink(missing_ok=True)))
        return descriptor

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self._file(descriptor).writes.append((offset, b"".join(parts)))
        return super().write(descriptor, parts, offset)

    def sync_data(self, descriptor: int) -> None:
        self.sync(descriptor)

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        file = self._file(descriptor)
        writes, file.writes = file.writes, []
        file.synced = _apply(file.synced, writes)

    def preallocate(self, descriptor: int, size: int) -> None:
        self._file(descriptor).writes.append((size - 1, b"\0"))
        super().preallocate(descriptor, size)

    def rename(self, old: str, new: str) -> None:
        replaced = Path(new).read_bytes() if os.path.exists(new) else None
        super().rename(old, new)

        def back() -> None:
            if os.path.exists(new):
                os.rename(new, old)
            if replaced is not None:
                Path(new).write_bytes(replaced)

        self._undo.append((os.path.dirname(new), back))

    def unlink(self, path: str) -> None:
        kept = f"{path}.unlinked-{self._chance.random()}"
        shutil.copy(path, kept)
        super().unlink(path)
        self._undo.append((os.path.dirname(path), lambda: os.rename(kept, path)))

    def sync_folder(self, path: str) -> None:
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    def cut(self, folder: Path) -> None:
        """The power goes: leave under `folder` what a disk could hold. All files are closed."""
        for path in folder.rglob("*"):
            file = self._files.get(path.stat().st_ino)
            if file is not None and path.is_file():
                path.write_bytes(_apply(file.synced, self._survivors(file.writes)))
        survivors = self._chance.randint(0, len(self._undo))
        for _, undo in reversed(self._undo[survivors:]):
            undo()
        for path in folder.rglob("*.unlinked-*"):
            path.unlink()

    def _survivors(self, writes: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Some sectors of the writes."""
        how = self._chance.choice(["none", "all", "prefix", "any"])
        if how == "none":
            return []
        if how == "all":
            return writes
        sectors = [sector for write in writes for sector in _sectors(*write)]
        if how == "prefix":
            return sectors[: self._chance.randint(0, len(sectors))]
        return [sector for sector in sectors if self._chance.random() < 0.7]


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """The write in parts that a disk writes whole."""
    borders = [
        offset,
        *range((offset // SECTOR + 1) * SECTOR, offset + len(data), SECTOR),
        offset + len(data),
    ]
    return [
        (low, data[low - offset : high - offset]) for low, high in pairwise(borders)
    ]


def _apply(content: bytes, writes: Sequence[tuple[int, bytes]]) -> bytes:
    """`content` after the writes."""
    result = bytearray(content)
    for offset, data in writes:
        if len(result) < offset:
            result.extend(bytes(offset - len(result)))
        result[offset : offset + len(data)] = data
    return bytes(result)
