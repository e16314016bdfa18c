"""A disk that a test exchanges while a device has files on it, as if it had begun to fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backend.buffer import Buffer
from backend.system import Durable, Environment


class ChangingDisk(Durable):
    """Each call goes to the disk that is `behind` it now."""

    def __init__(self) -> None:
        self.behind = Durable()

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        return self.behind.open(path, flags, mode, folder=folder)

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        return self.behind.write(descriptor, parts, offset)

    def sync_data(self, descriptor: int) -> None:
        self.behind.sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        self.behind.sync(descriptor)

    def preallocate(self, descriptor: int, size: int) -> None:
        self.behind.preallocate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        self.behind.truncate(descriptor, size)

    def free_space(self, path: str) -> tuple[int, int]:
        return self.behind.free_space(path)

    def make_folder(self, path: str, *, folder: int | None = None) -> None:
        self.behind.make_folder(path, folder=folder)

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        self.behind.rename(old, new, folder=folder)

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        self.behind.link(old, new, folder=folder)

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        self.behind.unlink(path, folder=folder)

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        self.behind.sync_folder(path, folder=folder)


@contextmanager
def exchanged(environment: Environment, disk: Durable) -> Iterator[None]:
    """Meanwhile the device, whose disk is a `ChangingDisk`, has this one."""
    changing = environment.disk
    assert isinstance(changing, ChangingDisk)
    before, changing.behind = changing.behind, disk
    try:
        yield
    finally:
        changing.behind = before
