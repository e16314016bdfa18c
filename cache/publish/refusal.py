"""The words for writers who would have to wait for a publisher that cannot publish."""

from __future__ import annotations

import errno

from backend.errors import NoSpaceError
from cache.errors import DriveFullError, FileSystemError, InputOutputError, NoSpaceLeftError


def refusal_of(error: Exception) -> FileSystemError | None:
    """The error to tell them at once: the nodes are full, or this machine's disk is in the way. None: to wait
    may help."""
    if isinstance(error, NoSpaceError):
        return DriveFullError(str(error))
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return NoSpaceLeftError(str(error)) if full else InputOutputError(str(error))
    return error if isinstance(error, FileSystemError) else None
