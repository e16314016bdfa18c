"""All durable file I/O of drivefs: the one place where a test can drop what was not fsynced.

The calls are thin on purpose. `Durable` is the real thing, and every device is given one
(`backend.system.environment`); tests give one that loses, tears or fails writes. Errors are `OSError`, as the
kernel gave them; an fsync that failed must never be repeated and called a success (the kernel forgets the
dirty pages: "Can Applications Recover from fsync Failures?", USENIX ATC 2020), so callers poison the file.
Thread-safe; every call may block on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from backend.buffer import Buffer


class NotBegunError(OSError):
    """Nothing was asked of the disk: what was to be made durable is as before, and may be tried again."""


_MAX_VECTORS = 512
_LARGE = 1 << 20


class Durable:
    """The system calls that make bytes durable. With `folder`, a descriptor of the folder that the paths are
    in, their last names are looked up there, whatever the paths lead to meanwhile."""

    database_vfs: str | None = None
    """the name of SQLite's VFS by which databases on this disk are opened for writing; None: SQLite's own"""

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        """A file descriptor; O_CLOEXEC is added."""
        return os.open(_in(folder, path), flags | os.O_CLOEXEC, mode, dir_fd=folder)

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        """Write all of `parts` at `offset`; the number of bytes. A short write goes on."""
        total = sum(map(len, parts))
        written = os.pwritev(descriptor, parts[:_MAX_VECTORS], offset)
        if written == total:
            return total
        rest = memoryview(b"".join(parts))
        while written < total:
            written += os.pwrite(descriptor, rest[written:], offset + written)
        return total

    def sync_data(self, descriptor: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(descriptor)

    def sync(self, descriptor: int) -> None:
        """fsync(2)."""
        os.fsync(descriptor)

    def preallocate(self, descriptor: int, size: int) -> None:
        """Reserve `size` bytes from the file's start, so that writes there neither meet ENOSPC
        nor change the file's size."""
        os.posix_fallocate(descriptor, 0, size)

    def truncate(self, descriptor: int, size: int) -> None:
        """ftruncate(2): what lay behind `size` is free, on some file systems only after `sync`."""
        os.ftruncate(descriptor, size)

    def free_space(self, path: str) -> tuple[int, int]:
        """The bytes of the file system that holds `path`: all, and those that we may still use."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def make_folder(self, path: str, *, folder: int | None = None) -> None:
        """mkdir(2) for the owner only; durable after `sync_folder` of the folder above."""
        os.mkdir(_in(folder, path), 0o700, dir_fd=folder)

    def make_folders(self, path: str) -> None:
        """The folder `path` and those above it, where they are missing; for the owner only, and durable."""
        if os.path.isdir(path):
            return
        above = os.path.dirname(os.path.abspath(path))
        self.make_folders(above)
        try:
            self.make_folder(path)
        except FileExistsError:  # another process may have made it just now
            if not os.path.isdir(path):
                raise
        self.sync_folder(above)

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        """Atomic within a file system; durable after `sync_folder`."""
        os.rename(_in(folder, old), _in(folder, new), src_dir_fd=folder, dst_dir_fd=folder)

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        """As link(2): FileExistsError if `new` exists, so of several callers one wins."""
        os.link(_in(folder, old), _in(folder, new), src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        """Remove a name; durable after `sync_folder`."""
        os.unlink(_in(folder, path), dir_fd=folder)

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        """Make names in a folder durable; here `folder` is that folder itself. `NotBegunError` if it cannot
        be opened (no descriptor is free)."""
        if folder is not None:
            self.sync(folder)
            return
        try:
            descriptor = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise NotBegunError(error.errno, error.strerror, path) from error
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def write_file(
        self,
        path: str,
        parts: Sequence[Buffer],
        *,
        exclusive: bool = False,
        mode: int = 0o600,
        folder: int | None = None,
    ) -> None:
        """Make `path` hold exactly `parts`, atomically and durably (temporary file, fsync, rename or
        link, folder fsync). With `exclusive`, FileExistsError if `path` exists. Leaves no temporary
        file behind unless the process dies; those names start with `.tmp-`. Right on NFS too, where the
        answer to a change of names may be lost, and the repeated request is told that it cannot be done:
        what is there tells (open(2), O_EXCL)."""
        above, name = os.path.split(path)
        temporary = os.path.join(above, f".tmp-{os.urandom(6).hex()}-{name[:100]}")
        descriptor = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, folder=folder)
        try:
            try:
                size = self.write(descriptor, parts, 0)
                self.sync(descriptor)
                ours = os.fstat(descriptor)
                if size >= _LARGE:
                    # Who wrote it has it in memory still; in the page cache it would push out what is read.
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
            if exclusive:
                self._link_ours(temporary, path, folder)
                with suppress(FileNotFoundError):
                    self.unlink(temporary, folder=folder)
            else:
                self._rename_ours(temporary, path, folder, ours)
        except BaseException:
            with suppress(FileNotFoundError):
                self.unlink(temporary, folder=folder)
            raise
        self.sync_folder(above or ".", folder=folder)

    def _link_ours(self, temporary: str, path: str, folder: int | None) -> None:
        """The temporary file, which nobody else knows, has two names if it was done."""
        try:
            self.link(temporary, path, folder=folder)
        except OSError:
            if _stat(temporary, folder).st_nlink != 2:
                raise

    def _rename_ours(self, temporary: str, path: str, folder: int | None, ours: os.stat_result) -> None:
        try:
            self.rename(temporary, path, folder=folder)
        except FileNotFoundError:
            if not os.path.samestat(_stat(path, folder), ours):
                raise


def _stat(path: str, folder: int | None) -> os.stat_result:
    return os.stat(_in(folder, path), dir_fd=folder, follow_symlinks=False)


def _in(folder: int | None, path: str) -> str:
    return path if folder is None else os.path.basename(path)
