"""SQLite's errors as this project's, for every database that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from backend import file_limit
from backend.errors import CorruptError, DriveError, NoSpaceError, TransientError

DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError)
MACHINE_ERRORS: Final = (apsw.FullError, *DAMAGED, apsw.IOError, apsw.BusyError, apsw.CantOpenError)
"""The errors of the disk and of other processes. All others are mistakes of the statement."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """A database's sentences for people: that its disk is full, that it is damaged, and the subject of any
    other error."""

    full: str
    damaged: str
    subject: str


def translation(error: Exception, sentences: Sentences) -> DriveError:
    """The error to raise instead of `error`: `NoSpaceError`, `CorruptError`, else `TransientError`."""
    if isinstance(error, apsw.FullError):
        return NoSpaceError(sentences.full)
    if isinstance(error, DAMAGED):
        return CorruptError(f"{sentences.damaged} ({error})")
    return TransientError(f"{sentences.subject}: {error}{file_limit.hint()}")
