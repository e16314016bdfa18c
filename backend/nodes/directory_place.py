"""A folder as the place for a node. See `backend.nodes.place`."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import UsageError
from backend.nodes import file_systems, nesting
from backend.nodes import files as node_files
from backend.nodes.directory import DirectoryNode, space_of
from backend.nodes.identity import NodeIdentity, initialise_directory_node, read_identity, require_fit
from backend.nodes.node import Node, Space
from backend.nodes.place import Whereabouts
from backend.system import THIS_MACHINE, Environment


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """See `NodePlace`. `folder` is an absolute path."""

    folder: str
    environment: Environment = field(default=THIS_MACHINE, repr=False, compare=False)

    def __str__(self) -> str:
        return self.folder

    @property
    def url(self) -> str:
        return self.folder

    @property
    def settings(self) -> Mapping[str, str | int]:
        return {}

    @property
    def way(self) -> tuple[Hashable, ...]:
        return ("file", *Path(os.path.realpath(self.folder)).parts)

    def whereabouts(self) -> Whereabouts | None:
        try:
            found = os.stat(self.folder)
        except OSError:
            return None  # it is away, and told to be
        return Whereabouts((found.st_dev, found.st_ino), os.path.islink(self.folder))

    def read(self, name: str, limit: int) -> bytes | None:
        try:
            return node_files.read_at_most(self.folder, name, limit + 1)
        except (FileNotFoundError, NotADirectoryError, node_files.ForeignFileError):
            return None

    def write(self, name: str, data: bytes) -> None:
        self.environment.disk.write_file(os.path.join(self.folder, name), [data])

    def replace(self, name: str, expected: bytes | None, data: bytes) -> bool:
        path, disk = os.path.join(self.folder, name), self.environment.disk
        if expected is None:
            try:
                disk.write_file(path, [data], exclusive=True)
            except FileExistsError:
                return False
            return True
        with _locked(path, len(expected) + 1) as found:
            if found != expected:
                return False
            disk.write_file(path, [data])
        return True

    def identity(self, name: str) -> NodeIdentity:
        return read_identity(self.folder, name)

    def prepare(self) -> None:
        nesting.require_outside(self.folder)
        try:
            self.environment.disk.make_folders(self.folder)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{self.folder}: is not a folder, nor can one be made there") from None

    def require_fit(self, name: str, *, emptied: bool = False) -> None:
        require_fit(self.folder, name, emptied=emptied)

    def initialise(self, identity: NodeIdentity) -> None:
        disk = self.environment.disk
        initialise_directory_node(self.folder, identity.drive_id, identity.name, identity.zone, disk)

    def failure_domain(self) -> Hashable:
        return os.stat(self.folder).st_dev

    def may_vote(self) -> bool:
        return not file_systems.is_shared(self.folder)

    def fragments(self) -> Iterator[str]:
        """No link is followed."""
        for below in (f"packs/{number:02x}" for number in range(256)):
            with suppress(OSError), node_files.opened_folder(self.folder, below) as folder:
                yield from (f"{below}/{name}" for name in os.listdir(folder))

    def holds(self, *folders: str) -> bool:
        return any(_is_folder(os.path.join(self.folder, name)) for name in folders)

    def tail(self, key: str, size: int) -> bytes:
        with open(node_files.open_below(self.folder, key), "rb") as file:
            file.seek(-size, os.SEEK_END)
            return file.read(size)

    def stored_bytes(self) -> int:
        paths = (os.path.join(self.folder, key) for key in self.fragments())
        return sum(os.lstat(path).st_size for path in paths)

    def remove(self, names: Sequence[str], folders: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self.environment.disk.unlink(os.path.join(self.folder, name))
            self.environment.disk.sync_folder(self.folder)
        for name in folders:
            _remove(os.path.join(self.folder, name))

    def clear(self) -> None:
        nesting.clear(self.folder, self.environment.disk)

    def space(self) -> Space:
        return space_of(self.folder)

    def is_writable(self) -> bool:
        return os.access(self.folder, os.R_OK | os.W_OK | os.X_OK)

    def node(self, identity: NodeIdentity) -> Node:
        return DirectoryNode(self.folder, identity, environment=self.environment)


@contextmanager
def _locked(path: str, limit: int) -> Iterator[bytes | None]:
    """The content of the file, at most so many bytes. Nobody else who asks here replaces it while the block
    runs. None if there is none, or if it was replaced just now."""
    try:
        descriptor = node_files.open_regular(path, flags=os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, node_files.ForeignFileError):
        yield None
        return
    with open(descriptor, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.read(limit) if os.path.samestat(os.fstat(descriptor), os.lstat(path)) else None


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remove(path: str) -> None:
    """A file, a link, or a folder with all in it; nothing if it is not there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)
