"""Rounds at random: a file here in some state, and another device that publishes something about it.

While it does, a thread reads what is open, whole, again and again: it must always be what was opened.
"""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.contents import KINDS, content
from tests.mount.shared_drive import SharedDrive

FILES: Final = 5
SIZES: Final = (0, 1, 4095, 4096, 5000, 60_000, 200_000)
STATES: Final = ("closed", "open for reading", "open for writing", "written to")


@dataclass
class Watcher:
    """Reads all that a descriptor shows, by read(2) or from mapped pages."""

    read: Callable[[], bytes]
    expected: bytes
    wrong: list[bytes] = field(default_factory=list)
    times: int = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In a thread, once at least; what differs fails here."""
        over, began = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.is_set() and not self.wrong:
                if (found := self.read()) != self.expected:
                    self.wrong.append(found)
                self.times += 1
                began.set()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            assert began.wait(30)
            yield
        finally:
            over.set()
            thread.join()
        assert not self.wrong, f"{len(self.wrong[0])} bytes in the place of {len(self.expected)}"


class Rounds:
    """See the module. `play` may be called as often as one likes; a failure names the seed of its round."""

    def __init__(self, drive: SharedDrive) -> None:
        self._drive = drive
        self._folder = drive.mountpoint
        self._published: dict[str, bytes] = {}
        self.states = dict.fromkeys(STATES, 0)
        self.readings = 0
        self.waits: list[float] = []
        """seconds from each commit of the other device until it was seen here"""

    def play(self, seed: int) -> None:
        """One round."""
        source = random.Random(seed)
        name = f"f{source.randrange(FILES)}"
        state = source.choice(STATES)
        try:
            self._play(source, name, state)
        except AssertionError as error:
            raise AssertionError(f"round {seed}: {name}, {state}: {error}") from error
        self.states[state] += 1

    def _play(self, source: random.Random, name: str, state: str) -> None:
        if name not in self._published:
            self._publish(source, name)
        path, was = self._folder / name, self._published[name]
        with ExitStack() as stack:
            if state == "closed":
                assert path.read_bytes() == was
                self._publish(source, name)
                return
            flags = os.O_RDONLY if state == "open for reading" else os.O_RDWR
            descriptor = os.open(path, flags)
            stack.callback(os.close, descriptor)
            if state == "written to":
                self._drive.peer(("hold",))
                was = self._write(source, descriptor, was)
            watcher = self._watcher(source, descriptor, was, stack)
            with watcher.watching():
                self._publish(source, name, was if state == "written to" else None)
            self.readings += watcher.times
            assert os.pread(descriptor, len(was) + 1, 0) == was
            is_copied = state == "written to" and self._published[name] != was
            if state == "open for writing" and source.random() < 0.5:
                is_copied, was = True, self._write(source, descriptor, was)
            self._check_copies(was if is_copied else None)
        self._check(name)
        if name in self._published:  # perhaps by this device
            self._drive.peer(("wait_for", name, len(self._published[name])))

    def _publish(self, source: random.Random, name: str, kept: bytes | None = None) -> None:
        """Have the other device change the file. `kept`: what was written here, which is not removed."""
        call = source.choice(["write", "save", "unlink"]) if name in self._published else "write"
        if call == "unlink":
            self._drive.peer(("unlink", name))
            del self._published[name]
            if kept is not None:
                self._published[name] = kept
        else:
            data = content(source.choice(KINDS), source.choice(SIZES), source.randrange(1 << 20))
            while data in (self._published.get(name), kept):  # the same content is no change
                data += b"!"
            self._drive.peer((call, name, data))
            self._published[name] = data
        self.waits.append(self._drive.soon(lambda: self._is_there(name)))

    def _is_there(self, name: str) -> bool:
        path, data = self._folder / name, self._published.get(name)
        if data is None:
            return not path.exists()
        return path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data

    def _check(self, name: str) -> None:
        assert self._is_there(name), "it is not as the other device published it"

    def _write(self, source: random.Random, descriptor: int, was: bytes) -> bytes:
        """Change something of the file; its content then."""
        offset = source.randrange(len(was) + 1)
        if source.random() < 0.3 and offset < len(was):
            os.ftruncate(descriptor, offset)
            found = was[:offset]
        else:
            data = source.randbytes(source.choice([1, 100, 10_000]))
            if data == was[offset : offset + len(data)]:  # which would be no change
                data = bytes(byte ^ 1 for byte in data)
            os.pwrite(descriptor, data, offset)
            found = was[:offset] + data + was[offset + len(data) :]
        os.fsync(descriptor)
        return found

    @staticmethod
    def _watcher(source: random.Random, descriptor: int, data: bytes, stack: ExitStack) -> Watcher:
        if not data or source.random() < 0.5:
            return Watcher(lambda: os.pread(descriptor, len(data) + 1, 0), data)
        mapped = stack.enter_context(mmap.mmap(descriptor, len(data), prot=mmap.PROT_READ))
        return Watcher(lambda: mapped[:], data)

    def _check_copies(self, data: bytes | None) -> None:
        """There is a copy with this content, or none; it goes."""
        copies = [path for path in self._folder.iterdir() if "(conflict 20" in path.name]
        assert len(copies) == (data is not None), f"copies: {copies}"
        for path in copies:
            assert path.read_bytes() == data, "the copy has another content"
            self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        path.unlink()

    def check_convergence(self) -> None:
        """Both devices have the files that were published, and nothing else."""
        for name in self._published:
            self._check(name)
            assert self._drive.peer_reads(name) == self._published[name]
        assert sorted(os.listdir(self._folder)) == sorted(self._published)
        self._drive.peer(("wait_for_names", sorted(self._published)))
