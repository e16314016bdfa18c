"""Which errno a process sees for each error that the drive raises: one table, and nothing else decides.

A class that is not in the table takes the number of its nearest base class in the table. An error of another
class is a bug: it is reported as EIO, and the caller of `errno_of` logs it with its traceback.
"""

from __future__ import annotations

import errno
from typing import Final

from backend import errors as backend
from cache import errors as cache

ERRNO: Final[dict[type[Exception], int]] = {
    cache.NoEntryError: errno.ENOENT,
    cache.ExistsError: errno.EEXIST,
    cache.NotDirectoryError: errno.ENOTDIR,
    cache.DirectoryError: errno.EISDIR,
    cache.NotEmptyError: errno.ENOTEMPTY,
    cache.TooManyLinksError: errno.EMLINK,
    cache.NameTooLongError: errno.ENAMETOOLONG,
    cache.FileTooBigError: errno.EFBIG,
    cache.NoAttributeError: errno.ENODATA,
    # The kernel itself answers E2BIG for one value over 64 KiB and ERANGE for a name over 255 bytes;
    # what the drive can still refuse is the sum for one inode, and that is ENOSPC (setxattr(2)).
    cache.AttributeTooBigError: errno.ENOSPC,
    cache.InvalidArgumentError: errno.EINVAL,
    cache.NotPermittedError: errno.EPERM,
    cache.AbandonedError: errno.EINTR,
    cache.AccessDeniedError: errno.EACCES,
    cache.NotSupportedError: errno.EOPNOTSUPP,
    cache.ReadOnlyFileSystemError: errno.EROFS,
    cache.NoSpaceLeftError: errno.ENOSPC,
    cache.DriveFullError: errno.ENOSPC,
    cache.InputOutputError: errno.EIO,
    cache.JournalLostError: errno.EIO,
    cache.UnreadableError: errno.EIO,
    cache.StaleError: errno.ESTALE,
    cache.FileSystemError: errno.EIO,
    # A node that is away for a moment, a lost lease, a corrupt block: the process did nothing wrong
    # and can do nothing about it. The log line says which; the errno only says "not these bytes".
    backend.DriveError: errno.EIO,
    # Its own, as a person can do something about it, and the bytes are well.
    backend.AwayError: errno.ENETDOWN,
    backend.NoSpaceError: errno.ENOSPC,
    backend.ReadOnlyError: errno.EROFS,
    # Python's own, for calls on the local disk (journal, cache) that nobody translated.
    OSError: errno.EIO,
    MemoryError: errno.ENOMEM,
}

_LOCAL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""The errnos of a failing local disk that processes see as they are; any other OSError becomes EIO."""


def errno_of(error: Exception) -> int:
    """The errno for `error`; EIO for what the table does not know. Pure; may be called anywhere."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _LOCAL_DISK and error.errno is not None else errno.EIO
    for kind in type(error).__mro__:
        if kind in ERRNO:
            return ERRNO[kind]
    return errno.EIO


def is_expected(error: Exception) -> bool:
    """Whether `error` is an ordinary answer to a process (no such file, not empty) and not worth a log
    line. False for faults of the store, of this machine and of the program; that a store is away is said once
    (`cache.contact`)."""
    if isinstance(error, cache.DriveFullError | backend.AwayError):
        return True
    return isinstance(error, cache.FileSystemError) and not isinstance(
        error, cache.InputOutputError | cache.NoSpaceLeftError
    )


def is_known(error: Exception) -> bool:
    """Whether `error` was raised on purpose: its text says everything, a traceback would only hide it."""
    return isinstance(error, cache.FileSystemError | backend.DriveError)
