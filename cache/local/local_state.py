"""The state folder: the data of a drive that a machine keeps and must not lose.

| in it | what |
|---|---|
| `lock` | flock(2) while a process uses the folder |
| `journal/` | what was accepted and is not published: the only copy of it |
| `device.key` | by which it is a device of the drive (`cache.local.device_file`); without it, a new one |
| `namespace.db` | names and attributes; with it the newest commit that this machine has seen |
| `kept.json` | the folders that are kept whole on this machine's disk (`cache.keeping`) |
| `recent-commits` | at a hub: the newest commits, should it lose them (`backend.remote.recent_commits`) |
| `notices.json` | what this machine decided by itself and people should hear of (`cache.notices`) |
| `lost/` | databases that were wrong, and lists of what was lost |
| `stale/TIME/` | a journal and a namespace that the drive has gone past, for a person to look at |
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from backend.errors import CorruptError, LeaseHeldError
from backend.system import THIS_MACHINE, Environment, at_rest, free_path
from backend.upstream import Head
from cache.errors import FileSystemError
from cache.journal import Custody, Journal, JournalRecovery, Ledger, Trimming
from cache.local.device_file import DeviceFile
from cache.namespace import Namespace

log = logging.getLogger(__name__)

NAMESPACE_FILE = "namespace.db"
JOURNAL = "journal"
STALE = "stale"
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
"""Of names, in UTC."""

LOCK_FILE = "lock"
"""In the state folder; flock(2) while a process uses it."""


class LocalState:
    """The open contents of a state folder. One process at a time: `LeaseHeldError` otherwise. `environment`:
    of the device whose folder it is. `device`: the number of the one that wrote the journal, as the namespace
    or, where that is new, the file says; 0 if there is none yet."""

    def __init__(self, folder: Path, environment: Environment = THIS_MACHINE) -> None:
        environment.disk.make_folders(str(folder))
        self.folder = folder
        self.environment: Final = environment
        self._lock = locked(folder)
        self._held = ExitStack()
        self._held.callback(os.close, self._lock)
        self._files = self._held.enter_context(ExitStack())
        self._notices: list[str] = []
        try:
            self.namespace = self._open_namespace()
            if not self.namespace.device:
                self.namespace.become(self.device_in_file())
            # The file may name another: one that the folder was about to become. The journal is not its yet.
            self.device: Final = self.namespace.device
            self._files.callback(self.namespace.close)
            custody = Custody(folder)
            journal = Journal(folder / JOURNAL, on_nameless=custody.lose, environment=environment)
            self._files.callback(journal.close)
            self.ledger = Ledger(journal, self.namespace, custody)
            self.recovery = JournalRecovery(self.ledger)
            self.trimming = Trimming(self.ledger)
        except BaseException:
            self.close()
            raise

    def _open_namespace(self) -> Namespace:
        """One that is damaged is kept aside, and a new one made: what it says is in log and journal."""
        path = str(self.folder / NAMESPACE_FILE)
        try:
            return Namespace(path, environment=self.environment)
        except CorruptError as error:
            kept = set_namespace_aside(self.folder, self.environment)
            self._notices.append(f"{error}; it is made anew from log and journal, and kept as {kept}")
            return Namespace(path, environment=self.environment)

    def device_in_file(self) -> int:
        """The number of the device that the file says: it may be one that the folder is about to be. As of
        `DeviceFile.number`."""
        return DeviceFile(self.folder, self.environment).number()

    def watch(self) -> None:
        """From now on be told of what loses its name in the folder. After recovery, which replaces files."""
        custody = self.ledger.custody
        wal = [name for name in (f"{NAMESPACE_FILE}-wal",) if (self.folder / name).exists()]
        custody.watch([LOCK_FILE, NAMESPACE_FILE, *wal], self.ledger.journal.named_files)
        custody.on_loss.append(self._lose_names)

    def _lose_names(self) -> None:
        try:
            self.ledger.journal.lose_names(self.namespace.commit)
        except FileSystemError as error:
            log.error("nothing more can be accepted: %s", error)

    def note(self, notice: str) -> None:
        """One more of `notices`."""
        self._notices.append(notice)

    @property
    def notices(self) -> tuple[str, ...]:
        """For people: what of the folder's contents could not be used, and where it is kept."""
        return (*self._notices, *self.ledger.journal.losses)

    @property
    def known_head(self) -> Head | None:
        """The newest commit that this device has seen, if it has seen any."""
        head = self.ledger.head
        return head if head.number else None

    def set_aside(self) -> Path:
        """Move journal and namespace out of the way, to be looked at by a person; where they are now. The
        folder stays locked; nothing but `close` may be called any more. Blocks."""
        self._files.close()
        io = self.environment.disk
        kept = free_path(self.folder / STALE / _time_of(self.environment))
        io.make_folders(str(kept))
        # The journal last: a namespace without it could be taken for all there is.
        for name in (*(NAMESPACE_FILE + suffix for suffix in at_rest.SUFFIXES), JOURNAL):
            if (self.folder / name).exists():
                io.rename(str(self.folder / name), str(kept / name))
        for folder in (kept, kept.parent, self.folder):
            io.sync_folder(str(folder))
        return kept

    def close(self) -> None:
        """Let go of everything, and of the directory. Idempotent."""
        self._held.close()


def locked(folder: Path) -> int:
    """A descriptor that keeps other processes out of a state folder until it is closed. `LeaseHeldError`."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LeaseHeldError(f"the state folder {folder} is in use by another drivefs process") from None
    return descriptor


def set_namespace_aside(folder: Path, environment: Environment) -> Path:
    """Keep a namespace database that is wrong in `lost/`, so that the next opening makes a new one from
    log and journal; where it is. Blocks."""
    kept_in, disk = folder / "lost", environment.disk
    disk.make_folders(str(kept_in))
    kept = free_path(kept_in / f"namespace-{_time_of(environment)}.db")
    for suffix in at_rest.SUFFIXES:
        source = folder / (NAMESPACE_FILE + suffix)
        if source.exists():
            disk.rename(str(source), str(kept.with_name(kept.name + suffix)))
    return kept


def _time_of(environment: Environment) -> str:
    """The time of its wall clock, for the name of what is set aside now."""
    return time.strftime(TIME_FORMAT, time.gmtime(environment.wall_clock() // 10**9))
