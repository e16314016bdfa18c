"""A node that is a directory: each object is a file, its key is its path below the directory.

Invariants:
1. An object is written beside its place and renamed or linked into it: readers see all of it or none,
   and it is durable (with the folders above it) before the call returns.
2. A directory without this node's identity file is never written to: an unmounted disk leaves an empty
   mount point, and that must look like a node that is away, not like one that lost everything.
3. The folder may be somebody else's: no link below it is followed, and nothing but a regular file counts as
   an object (`backend.nodes.files`). A link or a pipe in an object's place is replaced when the object is
   written; with a folder in its place, or something else in that of a folder, nothing is (`NodeError`).
4. `swap` holds flock(2) on `.lock` in the node, so that all processes that share the directory take turns.
5. An object that is no data, and a deletion, takes of the node's ballast (`backend.nodes.ballast`) where the
   file system has no room.
6. Blocking calls run in threads under a limiter, small ones under one of their own: a lease is renewed while
   packs wait for the disk. Reads that the page cache answers, at once or shortly after the kernel was asked
   for the bytes, do not block (see `backend.nodes.open_files`). A call whose caller is cancelled is
   abandoned; its thread tells the caller's watch when it ends (`backend.nodes.patient` waits for writes).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from stat import S_ISDIR, S_ISREG
from typing import Final, TypeVar

from backend import file_limit
from backend.buffer import Buffer
from backend.errors import (
    ConflictError,
    DriveError,
    NodeError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
)
from backend.failpoints import declare
from backend.nodes import ballast
from backend.nodes import files as node_files
from backend.nodes.directory_listing import list_keys
from backend.nodes.files import ForeignFileError
from backend.nodes.identity import NodeIdentity, read_identity
from backend.nodes.node import DATA, PAGE, ObjectState, Space, require_folder, require_key
from backend.nodes.open_files import OpenFile, OpenFiles
from backend.nodes.watch import watched
from backend.system import THIS_MACHINE, Environment, Threads

BEFORE_WRITE: Final = declare("node.before-write", "an object is about to be written; the node is as before")
AFTER_WRITE: Final = declare("node.after-write", "the object is durable; the caller does not know it yet")
AFTER_DELETE: Final = declare("node.after-delete", "the object is gone; the caller does not know it yet")

_LOCK_FILE: Final = ".lock"
OWN_FILES: Final = (_LOCK_FILE, ballast.FILE_NAME)
"""Files in a node's folder that are no objects, beside its identity."""
_TEMPORARY: Final = ".tmp-"
_STALE_AFTER: Final = 24 * 3600
_THREADS: Final = 8
_LARGE: Final = 128 * 1024
"""Calls with so many bytes, or who knows how many, wait for each other only."""
_REFUSED: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class DirectoryNode:
    """See `backend.nodes.node.Node`. A key may not lead through another key (`a` and `a/b`). Construction
    does no I/O; `check` says whether the node is there."""

    def __init__(
        self,
        path: str,
        identity: NodeIdentity,
        threads: Threads | None = None,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._path = os.path.abspath(path)
        self._identity = identity
        self._disk = environment.disk
        self._environment = environment
        self._large = threads or Threads(_THREADS)
        self._small = Threads(_THREADS)
        self._folders: set[str] = set()
        self._files = OpenFiles()
        self._allocates_ahead = True

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def zone(self) -> str:
        return self._identity.zone

    async def check(self) -> None:
        await self._run("cannot read", self._check)

    async def tidy(self) -> None:
        await self.check()
        await self._run("cannot clean", self._remove_stale)

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._write(f"cannot write {key}", key, partial(self._store, key, parts, False), _length(parts))
        self._files.forget(key)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._write(f"cannot create {key}", key, partial(self._store, key, parts, True), _length(parts))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: {offset}+{length}")
        require_key(key)
        if length is None or not length:
            read_range = partial(_read_range, self._path, key, offset, length)
            return await self._run(f"cannot read {key}", read_range, _LARGE if length is None else 0)
        soon = await self.get_soon(key, offset, length)
        if soon is not None:
            return bytes(soon)
        read = partial(_read_file, self._path, key, self._files.get(key), offset, length)
        data, file = await self._run(f"cannot read {key}", read, length)
        if len(data) == length:
            # Else it was read to its end, by who asked for as much as there can be: small objects, once.
            self._files.keep(key, file)
        return data

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        return await self._files.read_soon(key, offset, length)

    async def state(self, key: str) -> ObjectState:
        require_key(key)
        return await self._run(f"cannot stat {key}", partial(_state, self._path, key))

    async def delete(self, key: str) -> None:
        require_key(key)
        with suppress(NotFoundError):
            self._files.forget(key)
            what = f"cannot delete {key}"
            await self._run(what, partial(self._in_need, what, partial(self._delete, key), 0))
            self._files.forget(key)  # who read it meanwhile has opened it again

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        require_folder(prefix)
        with suppress(NotFoundError):
            look = partial(list_keys, self._path, prefix, after, limit)
            return await self._run(f"cannot list {prefix}", look)
        return []

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        require_key(key)
        await self._write(f"cannot replace {key}", key, partial(self._swap, key, expected, new), len(new))

    async def space(self) -> Space:
        return await self._run("cannot ask for space", self._space)

    async def _write(self, what: str, key: str, work: Callable[[], None], size: int) -> None:
        """`work` in a thread, which stores an object of `size` bytes."""
        kept = work if key.startswith(DATA) else partial(self._write_at_need, what, work, size)
        await self._run(what, kept, size)

    async def _run(self, what: str, work: Callable[[], Result], size: int = 0) -> Result:
        """`work` in a thread; `size` is how many bytes it moves."""
        guarded = partial(self._guarded, what, work)
        threads = self._large if size >= _LARGE else self._small
        return await threads.run(guarded)

    def _guarded(self, what: str, work: Callable[[], Result]) -> Result:
        with watched():
            try:
                return work()
            except FileExistsError:
                raise ConflictError(f"{self.name}: {what}: it exists") from None
            except OSError as error:
                raise self._translated(what, error) from error

    def _translated(self, what: str, error: OSError) -> DriveError:
        text = f"{self.name}: {what}: {file_limit.reason(error)}"
        if error.errno in _ABSENT or isinstance(error, ForeignFileError):
            self._check()
            return NotFoundError(text)
        if error.errno in ballast.FULL:
            return NoSpaceError(text)
        return ReadOnlyError(text) if error.errno in _REFUSED else TransientError(text)

    def _write_at_need(self, what: str, work: Callable[[], None], size: int) -> None:
        """`work`, at the cost of the ballast if there is no room; with room, the ballast is whole again."""
        self._in_need(what, work, size)
        if self._allocates_ahead:
            self._keep_ballast()

    def _keep_ballast(self) -> None:
        try:
            with node_files.opened_folder(self._path) as folder:
                self._allocates_ahead = ballast.keep(self._path, folder, self._environment)
        except OSError as error:
            log.warning("%s: its ballast cannot be made: %s", self.name, file_limit.reason(error))
        if not self._allocates_ahead:
            log.info("%s: no ballast: the file system of %s allocates nothing ahead", self.name, self._path)

    def _in_need(self, what: str, work: Callable[[], None], size: int) -> None:
        while True:
            try:
                return work()
            except OSError as error:
                if error.errno not in ballast.FULL:
                    raise
                if not self._give(size):
                    raise NoSpaceError(f"{self.name}: {what}: {self._no_room(error)}") from error

    def _no_room(self, error: OSError) -> str:
        return f"{error.strerror}, and its ballast is too small: make room on the disk of {self._path}"

    def _give(self, size: int) -> bool:
        with node_files.opened_folder(self._path) as folder:
            return ballast.give(self._path, folder, size, self._environment)

    def _check(self) -> None:
        found = read_identity(self._path, self.name)
        if found.drive_id != self._identity.drive_id:
            raise NodeError(f"{self.name}: {self._path} is a node of another drive", self.name)
        if found.name != self.name:
            raise NodeError(f"{self.name}: {self._path} is this drive's {found.name}", self.name)

    def _store(self, key: str, parts: Sequence[Buffer], exclusive: bool) -> None:
        self._environment.failpoints.reached(BEFORE_WRITE)
        try:
            self._store_once(key, parts, exclusive)
        except FileNotFoundError:
            self._folders.clear()
            self._store_once(key, parts, exclusive)
        self._environment.failpoints.reached(AFTER_WRITE)

    def _store_once(self, key: str, parts: Sequence[Buffer], exclusive: bool) -> None:
        below, _, name = key.rpartition("/")
        with self._way_open(f"{self.name}: {key}"), self._made_folder(below) as folder:
            if exclusive:
                _clear(folder, name)
            self._disk.write_file(os.path.join(self._path, key), parts, exclusive=exclusive, folder=folder)

    @contextmanager
    def _way_open(self, what: str) -> Iterator[None]:
        try:
            yield
        except (NotADirectoryError, IsADirectoryError, ForeignFileError) as error:
            raise NodeError(
                f"{what}: something is in the way that is not drivefs' ({error.strerror}): "
                "fsck.drivefs -y moves it aside",
                self.name,
            ) from None

    @contextmanager
    def _made_folder(self, below: str) -> Iterator[int]:
        """The folder, durably, with what is above it. One that is found there may be another writer's
        whose fsync is still to come, so its parent is synced here as well."""
        made = ""
        for name in filter(None, below.split("/")):
            above, made = made, f"{made}/{name}" if made else name
            if made not in self._folders:
                self._make_folder(above, made)
        if not below:
            self._check()
        with node_files.opened_folder(self._path, below) as folder:
            yield folder

    def _make_folder(self, above: str, made: str) -> None:
        if not above:
            self._check()
        with node_files.opened_folder(self._path, above) as parent:
            with suppress(FileExistsError):
                self._disk.make_folder(os.path.join(self._path, made), folder=parent)
            self._disk.sync_folder(os.path.join(self._path, above).rstrip("/"), folder=parent)
        self._folders.add(made)

    def _delete(self, key: str) -> None:
        below = os.path.dirname(key)
        gone = suppress(NotADirectoryError, IsADirectoryError)
        with gone, node_files.opened_folder(self._path, below) as folder:
            self._disk.unlink(os.path.join(self._path, key), folder=folder)
            self._disk.sync_folder(os.path.join(self._path, below), folder=folder)
        self._environment.failpoints.reached(AFTER_DELETE)

    def _swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        with self._way_open(f"{self.name}: {key}"), self._made_folder(key.rpartition("/")[0]):
            pass
        with self._locked():
            if not _holds(self._path, key, expected):
                raise ConflictError(f"{self.name}: {os.path.basename(key)} is not what was expected")
            self._store(key, [new], exclusive=expected is None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with self._way_open(f"{self.name}: {_LOCK_FILE}"), node_files.opened_folder(self._path) as folder:
            with suppress(FileNotFoundError):
                node_files.require_regular(
                    os.stat(_LOCK_FILE, dir_fd=folder, follow_symlinks=False), _LOCK_FILE
                )
            descriptor = os.open(_LOCK_FILE, flags, 0o600, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _space(self) -> Space:
        self._check()
        return space_of(self._path)

    def _remove_stale(self) -> None:
        oldest = self._environment.wall_clock() / 1e9 - _STALE_AFTER
        with node_files.opened_folder(self._path) as top:
            for _, folder, files in node_files.walk(top):
                for name in filter(lambda name: name.startswith(_TEMPORARY), files):
                    with suppress(FileNotFoundError):
                        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < oldest:
                            os.unlink(name, dir_fd=folder)


def _length(parts: Sequence[Buffer]) -> int:
    return sum(len(part) for part in parts)


def space_of(path: str) -> Space:
    """The space of the file system that holds the node's folder `path`; the ballast counts as free, as it is
    a part of the reserve. `OSError`. Blocks."""
    with node_files.opened_folder(path) as folder:
        found, device = os.fstatvfs(folder), str(os.fstat(folder).st_dev)
        free = found.f_bavail * found.f_frsize + ballast.held(folder)
        return Space(found.f_blocks * found.f_frsize, free, device, not ballast.is_hollow(folder))


def _read_range(root: str, key: str, offset: int, length: int | None) -> bytes:
    return OpenFile(root, key).read(offset, length)


def _read_file(
    root: str, key: str, file: OpenFile | None, offset: int, length: int
) -> tuple[bytes, OpenFile]:
    """The bytes, and the open file that they are from: `file`, if the path still leads to it."""
    if file is None or not file.is_in_place():
        file = OpenFile(root, key)
    return file.read(offset, length), file


def _state(root: str, key: str) -> ObjectState:
    below, _, name = key.rpartition("/")
    with node_files.opened_folder(root, below) as folder:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    node_files.require_regular(found, name)
    return ObjectState(found.st_size)


def _holds(root: str, key: str, expected: bytes | None) -> bool:
    """Whether the object is just that; None: there is none."""
    try:
        found = node_files.read_at_most(root, key, len(expected or b"") + 1)
    except (FileNotFoundError, ForeignFileError):
        return expected is None
    return found == expected


def _clear(folder: int, name: str) -> None:
    """Make way for a file that must be the first: a link or pipe is none, and goes. A folder stays."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not S_ISREG(mode):
            os.unlink(name, dir_fd=folder)
