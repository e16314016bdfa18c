"""A process that writes to a drive at a hub, and reads what others have stored; every call has to succeed.

    python -m tests.soak.hub_load MOUNTPOINT MANIFESTS NAME SEED

It has the folder NAME, and a manifest of that name in the folder MANIFESTS, with lines besides those of
`tests.crash.load`: `stored` (files that are never changed again, after `drivefs sync` has returned: any
device has them from then on), `told` (why a sync did not succeed), `took` (the longest of a kind of call so
far, in seconds). It ends with code 0 after the change in which its standard input is closed, and a sync.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.crash.load import Load, Manifest, digest
from tests.mount.reading import ORDERS, read_whole
from tools.control_client import ControlClient
from tools.errors import ToolError

MOST: Final = 40
"""Files that it keeps and changes."""
SYNC_SECONDS: Final = 10.0
"""For one sync; what it does not store then is stored by a later one."""
PAUSE: Final = 0.1
"""Seconds, at most, between two changes: the processors are for the hub, too."""


class HubLoad(Load):
    """See the module."""

    def __init__(self, mountpoint: Path, manifests: Path, name: str, seed: int) -> None:
        super().__init__(mountpoint / name, manifests / name, seed)
        self._control = ControlClient.of_mount(str(mountpoint))
        self._mountpoint, self._manifests = mountpoint, manifests
        self._others: dict[str, Stored] = {}
        self._fresh: dict[str, bytes] = {}
        self._longest: dict[str, float] = {}

    def run(self) -> None:
        changes: list[Callable[[], object]] = [*self.changes()]
        changes += [self.store, self.write_for_good] * 3 + [self.read_own, self.read_stored] * 4
        while not select.select([sys.stdin], [], [], 0)[0]:
            change = self._random.choice(changes)
            with self._timed(change.__name__):
                change()
            time.sleep(self._random.uniform(0, PAUSE))
        while not self.store():
            time.sleep(PAUSE)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
        if seconds > self._longest.get(name, 0.0):
            self._longest[name] = seconds
            self._say("took", call=name, seconds=seconds)

    def create(self) -> None:
        """Or delete, where there are enough."""
        if len(self.files) < MOST:
            super().create()
        else:
            self.delete()

    def write_for_good(self) -> None:
        """A file that nobody changes any more."""
        name, data = f"once{self._counter}", self._new(300_000)
        self._begin(name)
        self._write(name, data)
        self._done(**{name: data})
        self._fresh[name] = self.files.pop(name)

    def store(self) -> bool:
        """Whether all is at the hub now; what is not goes there later, as people are told."""
        if (said := self._refusal()) is not None:
            self._say("told", said=said)
            return False
        told = {name: [len(data), digest(data)] for name, data in self._fresh.items()}
        self._say("stored", files=told)
        self._fresh = {}
        return True

    def _refusal(self) -> str | None:
        try:
            return self._control.sync(str(self._mountpoint), SYNC_SECONDS).short or None
        except ToolError as error:
            return str(error)

    def read_own(self) -> None:
        """One of its files is as it was written last."""
        name = self._pick()
        if name is not None:
            data = self._read(self.folder / name)
            if data != self.files[name]:
                sys.exit(
                    f"{self.folder / name}: {len(data)} bytes differ from the {len(self.files[name])} written"
                )

    def read_stored(self) -> None:
        """What any of them has stored is as it was written, once it is here."""
        other = self._random.choice(sorted(path.name for path in self._manifests.iterdir()))
        found = self._others.setdefault(other, Stored(self._manifests / other)).any(self._random)
        if found is not None and (path := self._mountpoint / other / found[0]).exists():
            data = self._read(path)
            if (len(data), digest(data)) != found[1:]:
                sys.exit(f"{path}: {len(data)} bytes differ from the {found[1]} that were stored")

    def _read(self, path: Path) -> bytes:
        return read_whole(path, self._random.choice(ORDERS))


class Lines:
    """The lines of a manifest, which grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def more(self) -> Iterator[dict[str, Any]]:
        """Those that have been added; none if there is no file yet."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._seen)
            for line in file:
                if line.endswith(b"\n"):
                    self._seen += len(line)
                    yield json.loads(line)


class Stored:
    """What a manifest says is stored for good."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._files: list[tuple[str, int, str]] = []

    def any(self, chance: random.Random) -> tuple[str, int, str] | None:
        """Name, size and digest of one of the files; None: there is none yet."""
        for line in self._lines.more():
            if line["kind"] == "stored":
                self._files += [(name, *what) for name, what in line["files"].items()]
        return chance.choice(self._files) if self._files else None


class Progress:
    """How far a writer is."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self.manifest = Manifest()
        self.stores = 0
        self.told: list[str] = []
        """why nothing could be stored, each time"""
        self.longest: dict[str, float] = {}
        """in seconds, by call"""

    def now(self) -> Progress:
        """With all that its manifest says by now."""
        for line in self._lines.more():
            self.manifest.take(line)
            match line["kind"]:
                case "stored":
                    self.stores += 1
                case "told":
                    self.told.append(line["said"])
                case "took":
                    self.longest[line["call"]] = line["seconds"]
        return self


if __name__ == "__main__":
    HubLoad(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])).run()
