"""A process that changes files in one folder at random and keeps a manifest of what it was told is done.

    python -m tests.crash.load FOLDER MANIFEST SEED

The manifest is outside the mount: a line before each change (`begin`) and one after the call returned that
makes it count (`done`): close() or fsync() for contents, the call itself for names. `survived` compares
a folder with it. The process ends when a call fails, as it does when the mount is killed.

Contents are of every kind that people have; `survived` reads each file in an order of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests import contents
from tests.mount.reading import ORDERS, read_open

LOG: Final = "log"
_RECORD: Final = 1000


def content(seed: str, size: int) -> bytes:
    """The `size` bytes, and their kind, that `seed` stands for."""
    return contents.content(random.Random(seed).choice(contents.KINDS), size, seed)


def record(prefix: str, number: int) -> bytes:
    """Record `number` of the log of the writer that `prefix` names."""
    return contents.content("log", _RECORD, f"{prefix}.log.{number}")


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Load:
    """Names stand in `files` with the seed and size of what was last acknowledged for them."""

    def __init__(self, folder: Path, manifest: Path, seed: int) -> None:
        self.folder, self._random = folder, random.Random(seed)
        self._manifest = os.open(manifest, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._prefix, self._counter, self._logged = f"{seed}", 0, 0
        self.files: dict[str, bytes] = {}

    def run(self) -> None:
        """Until a call fails."""
        changes = self.changes()
        while True:
            self._random.choice(changes)()

    def changes(self) -> list[Callable[[], None]]:
        """What it does, each as often as it is there."""
        changes = [self.create] * 4 + [self.replace] * 3 + [self.overwrite] * 2 + [self.append] * 2
        return changes + [self.log] * 2 + [self.rename, self.delete, self.sync_only, self.exchange_names]

    def _say(self, kind: str, **what: Any) -> None:
        os.write(self._manifest, json.dumps({"kind": kind, **what}).encode() + b"\n")

    def _new(self, largest: int) -> bytes:
        self._counter += 1
        size = int(largest ** self._random.random())
        return content(f"{self._prefix}.{self._counter}", size)

    def _pick(self) -> str | None:
        return self._random.choice(sorted(self.files)) if self.files else None

    def _begin(self, *names: str) -> None:
        self._say("begin", names=names)

    def _done(self, **files: bytes | None) -> None:
        for name, data in files.items():
            if data is None:
                self.files.pop(name, None)
            else:
                self.files[name] = data
        told = {name: None if data is None else [len(data), digest(data)] for name, data in files.items()}
        self._say("done", files=told)

    def _write(
        self, name: str, data: bytes, flags: int = os.O_TRUNC, offset: int = 0, sync: bool = False
    ) -> None:
        descriptor = os.open(self.folder / name, os.O_CREAT | os.O_WRONLY | flags, 0o644)
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view[: self._random.choice([4096, 65_536, 1 << 20])], offset)
            view, offset = view[written:], offset + written
        if sync:
            os.fsync(descriptor)
        else:
            os.close(descriptor)

    def create(self) -> None:
        name, data = f"f{self._counter}", self._new(3_000_000)
        self._begin(name)
        self._write(name, data)
        self._done(**{name: data})

    def sync_only(self) -> None:
        """Counts by fsync(); the descriptor stays open for good."""
        name, data = f"s{self._counter}", self._new(300_000)
        self._begin(name)
        self._write(name, data, sync=True)
        self._done(**{name: data})

    def replace(self) -> None:
        """Write new, rename over."""
        name, data = self._pick(), self._new(200_000)
        if name is None:
            return
        self._begin(".new")
        self._write(".new", data)
        self._done(**{".new": data})
        self._begin(".new", name)
        os.rename(self.folder / ".new", self.folder / name)
        self._done(**{".new": None, name: data})

    def overwrite(self) -> None:
        name = self._pick()
        if name is None:
            return
        old, data = self.files[name], self._new(100_000)
        offset = self._random.randint(0, len(old))
        self._begin(name)
        self._write(name, data, 0, offset)
        self._done(**{name: old[:offset] + data + old[offset + len(data) :]})

    def append(self) -> None:
        name = self._pick()
        if name is not None:
            data = self._new(50_000)
            self._begin(name)
            self._write(name, data, 0, len(self.files[name]))
            self._done(**{name: self.files[name] + data})

    def log(self) -> None:
        """Records added to one file, each made durable; the file is closed each time but the last."""
        data = record(self._prefix, self._logged)
        descriptor = os.open(self.folder / LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.write(descriptor, data)
        os.fsync(descriptor)
        self._logged += 1
        self._say("log", records=self._logged, prefix=self._prefix)
        os.close(descriptor)

    def rename(self) -> None:
        name = self._pick()
        if name is not None:
            new = f"r{self._counter}-{self._random.randint(0, 5)}"
            self._begin(name, new)
            os.rename(self.folder / name, self.folder / new)
            self._done(**{name: None, new: self.files[name]})

    def exchange_names(self) -> None:
        """A hard link, then the first name goes."""
        name = self._pick()
        if name is not None and f"l{self._counter}" not in self.files:
            new = f"l{self._counter}"
            self._begin(new)
            os.link(self.folder / name, self.folder / new)
            self._done(**{new: self.files[name]})
            self._begin(name)
            os.unlink(self.folder / name)
            self._done(**{name: None})

    def delete(self) -> None:
        name = self._pick()
        if name is not None:
            self._begin(name)
            os.unlink(self.folder / name)
            self._done(**{name: None})


@dataclass
class Manifest:
    """What has to be there: size and digest by name. `open`: names that a change was under way for."""

    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    records: int = 0
    prefix: str = ""
    changes: int = 0

    @classmethod
    def read(cls, path: Path) -> Manifest:
        manifest = cls()
        for line in path.read_text().splitlines():
            manifest.take(json.loads(line))
        return manifest

    def take(self, entry: dict[str, Any]) -> None:
        """One line more of the manifest."""
        match entry["kind"]:
            case "begin":
                self.open = set(entry["names"])
            case "log":
                self.records, self.prefix = entry["records"], entry["prefix"]
            case "done":
                self.open, self.changes = set(), self.changes + 1
                for name, what in entry["files"].items():
                    if what is None:
                        self.files.pop(name, None)
                    else:
                        self.files[name] = (what[0], what[1])


def survived(folder: Path, path: Path) -> list[str]:
    """What in `folder` is not as the manifest at `path` says it was acknowledged: nothing, if all is well."""
    manifest = Manifest.read(path)
    return [*_wrong_files(folder, manifest), *_wrong_log(folder, manifest)]


def _wrong_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    there = {entry.name for entry in folder.iterdir()} - {LOG}
    for name in there | manifest.files.keys():
        if name in manifest.open:
            if name in there:
                _bytes_of(folder / name)  # whatever it is, it can be read
        elif name not in there:
            yield f"{folder.name}/{name}: lost"
        elif name not in manifest.files:
            yield f"{folder.name}/{name}: came back"
        else:
            data = _bytes_of(folder / name)
            if (len(data), digest(data)) != manifest.files[name]:
                size = manifest.files[name][0]
                yield f"{folder.name}/{name}: {len(data)} bytes differ from the {size} acknowledged"
    if (names := manifest.open) and len(names) == 2 and not names & there:
        yield f"{folder.name}: both names of a rename are gone: {sorted(names)}"


def _bytes_of(path: Path) -> bytes:
    """What is read there. What fsync() and close() say is of others: a writer that was killed in the middle
    of a link or an unlink leaves EIO behind for the next one who closes the file, and one that the drive
    refused leaves ENOSPC (docs/semantics.md)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
        return read_open(descriptor, random.Random(path.name).choice(ORDERS))
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _wrong_log(folder: Path, manifest: Manifest) -> Iterator[str]:
    if not manifest.records:
        return
    data = _bytes_of(folder / LOG)
    expected = b"".join(record(manifest.prefix, number) for number in range(manifest.records + 1))
    if data[: manifest.records * _RECORD] != expected[:-_RECORD]:
        yield f"{folder.name}/log: the {manifest.records} records that were synced are not there"
    if len(data) > len(expected):
        yield f"{folder.name}/log: longer than what was written"


if __name__ == "__main__":
    try:
        Load(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).run()
    except OSError as error:
        sys.exit(f"{error}")
