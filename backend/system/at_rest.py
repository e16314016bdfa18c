"""Seals on closed databases: bytes that changed while no process had them open are noticed before they are
believed.

SQLite does not check the contents of its pages. A database that changed at rest must never be taken for
right. It is made anew, as all it holds is in the journal and on the nodes too.

Invariants:
1. A seal lies beside a database only while it is closed and whole in its one file.
2. The seal goes, durably, before the database is opened for writing. So one that does not fit says that
   the bytes were changed by something else.
3. A process that was killed leaves no seal: then nothing is known, and nothing is claimed.

All functions block on the disk.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

from backend.errors import DriveError, NotFoundError
from backend.system.crypto import file_hash
from backend.system.durable import Durable

_SEAL: Final = ".seal"
_LOGS: Final = ("-wal", "-journal")
SUFFIXES: Final = (_SEAL, "-journal", "-shm", "-wal", "")
"""Of all files that belong to a database, in an order in which they may be removed or moved."""

log = logging.getLogger(__name__)


def seal(path: str, disk: Durable) -> None:
    """Seal the database at `path`, which was closed just now. One that cannot be sealed is left without:
    the next opening then only knows less."""
    if any(os.path.exists(path + suffix) for suffix in _LOGS):
        return
    try:
        disk.write_file(path + _SEAL, [file_hash(path).hex().encode()])
    except OSError as error:
        log.info("%s is closed without a seal: %s", path, error)


def make_private(path: str, disk: Durable) -> None:
    """Make sure that the database's file exists and that only its owner may read it; SQLite gives those
    beside it the same mode. `NotFoundError` if there is no folder for it."""
    try:
        descriptor = disk.open(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: its folder does not exist") from None
    except OSError as error:
        raise DriveError(f"{path}: {error.strerror}") from error
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def unseal(path: str, disk: Durable) -> None:
    """Before the database is opened for writing. Idempotent."""
    if os.path.exists(path + _SEAL):
        disk.unlink(path + _SEAL)
        disk.sync_folder(os.path.dirname(os.path.abspath(path)))


def is_damaged(path: str) -> bool:
    """Whether there is a seal that the database does not fit."""
    try:
        with open(path + _SEAL, "rb") as file:
            said = file.read(100)
        return file_hash(path).hex().encode() != said
    except FileNotFoundError as error:
        return bool(error.filename == path)  # no seal says nothing; a seal on nothing is wrong


def remove_database(path: str, disk: Durable) -> None:
    """The database is not to be believed: its files go. Idempotent."""
    for suffix in SUFFIXES:
        if os.path.exists(path + suffix):
            disk.unlink(path + suffix)
