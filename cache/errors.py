"""The errors of POSIX calls on a drive, raised by `Drive`. Several may share an errno.

`mountfs.errno_table` maps each to its number; nothing else does.
"""

from __future__ import annotations


class FileSystemError(Exception):
    """Base of the refusals that a caller of a file system expects."""


class NoEntryError(FileSystemError):
    """ENOENT"""


class ExistsError(FileSystemError):
    """EEXIST"""


class NotDirectoryError(FileSystemError):
    """ENOTDIR"""


class DirectoryError(FileSystemError):
    """EISDIR"""


class NotEmptyError(FileSystemError):
    """ENOTEMPTY"""


class TooManyLinksError(FileSystemError):
    """EMLINK"""


class NameTooLongError(FileSystemError):
    """ENAMETOOLONG"""


class FileTooBigError(FileSystemError):
    """EFBIG"""


class NoAttributeError(FileSystemError):
    """ENODATA"""


class AttributeTooBigError(FileSystemError):
    """E2BIG / ENOSPC: an extended attribute over its limit"""


class InvalidArgumentError(FileSystemError):
    """EINVAL"""


class AbandonedError(FileSystemError):
    """EINTR: who made the call was killed, and nothing was changed"""


class NotPermittedError(FileSystemError):
    """EPERM"""


class AccessDeniedError(FileSystemError):
    """EACCES"""


class NotSupportedError(FileSystemError):
    """EOPNOTSUPP"""


class ReadOnlyFileSystemError(FileSystemError):
    """EROFS"""


class NoSpaceLeftError(FileSystemError):
    """ENOSPC: the local disk that holds the journal is full"""


class DriveFullError(NoSpaceLeftError):
    """ENOSPC: the nodes can store no more; an ordinary answer"""


class InputOutputError(FileSystemError):
    """EIO: the bytes cannot be had, or cannot be made durable"""


class UnreadableError(InputOutputError):
    """EIO: bytes of a file that were accepted cannot be read from the journal"""


class JournalLostError(InputOutputError):
    """EIO: the journal's files have lost their names (`cache.journal.custody`): only nodes can make bytes
    durable"""


class StaleError(FileSystemError):
    """ESTALE: the inode is gone"""
