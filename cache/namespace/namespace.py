"""The state of a drive: inodes, names, attributes and extents, now and at every retained commit.

Invariants (event loop thread only, synchronous; the exceptions are `checkpoint`, and a shadow's thread):
1. State changes only by `apply`, `undo`, `roll_back`, `record_commit`, `points.forget_some`,
   `replace_from` and `take_place`. The same operations with the same commit numbers give the same rows on
   every machine (`inode.atime_ns` aside, after an undo; rows that are to be forgotten aside, until they are).
2. The database on disk is always the state at the journal position that it holds: `save` commits
   both in one transaction, and whoever opens it replays the journal from exactly there.
3. A power cut may lose the last saves (WAL, synchronous=NORMAL), never part of one. Journal before
   the position that `checkpoint` returned is not needed for this database any more.
4. Nothing is written to disk but by `save`; the loop never fsyncs but for the header of a
   write-ahead log that begins anew after a checkpoint, and when that log would grow without end.

Tables: docs/format/namespace.md. Past states: `cache.history.history`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from backend.errors import CorruptError, ReadOnlyError
from backend.system import THIS_MACHINE, Environment
from backend.upstream import NO_COMMIT, Head
from cache.namespace.devices import DeviceStore
from cache.namespace.epochs import EpochStore
from cache.namespace.extents import ExtentStore
from cache.namespace.namespace_file import NamespaceFile
from cache.namespace.operations import DEVICE_SHIFT, MAX_DEVICE, ROOT_INODE, Operation
from cache.namespace.points import PointStore
from cache.namespace.reducer import reduce
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore, insert, merged
from cache.namespace.rows import (
    DENTRY_COLUMNS,
    DentryRow,
    Extent,
    InodeRow,
    Statistics,
)
from cache.namespace.schema import (
    LOCAL_META,
    Connection,
    read_meta,
    sqlite_errors,
    value_of,
)
from cache.namespace.shadow import Shadow
from cache.namespace.state import State
from cache.namespace.undo import take_back
from cache.namespace.writers import WriterStore
from cache.namespace.xattrs import XattrStore

_LEAST_CACHED_ROWS: Final = 8
"""An operation holds a few rows at a time, and none of them may be pushed out meanwhile."""

_ENTRIES: Final = (
    f"SELECT {', '.join(DENTRY_COLUMNS)} FROM dentry WHERE parent = ? AND cookie > ? ORDER BY cookie LIMIT ?"
)
_NAMES: Final = (
    f"SELECT {', '.join(DENTRY_COLUMNS)} FROM dentry WHERE parent = ? AND name >= ? AND name < ?"
    " ORDER BY name LIMIT ?"
)
_LAST_COMMIT: Final = "SELECT number, hash, time_ns FROM commits ORDER BY number DESC LIMIT 1"
_HIGHEST: Final = (
    "SELECT max(coalesce((SELECT max(inode) FROM inode WHERE inode < :end), 0),"
    " coalesce((SELECT max(inode) FROM past_inode WHERE inode < :end), 0))"
)


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A state for `Namespace.roll_back`: the number of writes in the open transaction, the open commit, the
    totals and numbers."""

    written: int
    commit: int
    state: State


class Namespace:
    """The one object that holds a namespace database open for its drive."""

    def __init__(
        self,
        path: str,
        *,
        read_only: bool = False,
        device: int | None = None,
        uid: int = 0,
        gid: int = 0,
        time_ns: int = 0,
        cached_rows: int = 32768,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        """Open the database at `path`, or make it with a root directory of `uid`, `gid`, `time_ns` (which
        must be the same on every machine of a drive: the root is born in commit 0). `device` (default:
        as before, or 0) is this machine's; inode numbers come from it. `cached_rows`: clean inodes in a
        cache generation. `NotFoundError`, `FormatError`, `CorruptError`, `ReadOnlyError`."""
        self.path = path
        self.read_only = read_only
        self._environment = environment
        self._cached_rows = max(cached_rows, _LEAST_CACHED_ROWS)
        self._file = NamespaceFile(path, (uid, gid, time_ns), environment, read_only=read_only)
        self._open(device)

    def _open(self, device: int | None) -> None:
        self._connection = self._file.open()
        with sqlite_errors(self.path):
            try:
                self._load(device)
            except BaseException:
                self._connection.close()
                raise

    def _load(self, device: int | None) -> None:
        self._rows = RowStore(self._connection, self.path, self._cached_rows, self._environment)
        self._extents = ExtentStore(self._rows, max(self._cached_rows // 8, 64))
        self._xattrs = XattrStore(self._rows, self._cached_rows)
        self.points = PointStore(self._rows)
        self.writers = WriterStore(self._rows)
        self.devices = DeviceStore(self._rows)
        self.epochs = EpochStore(self._rows)
        self._load_meta(device)

    def _load_meta(self, device: int | None) -> None:
        try:
            meta = {key: int(value) for key, value in read_meta(self._connection).items()}
            totals = [meta[name] for name in Statistics._fields]
        except (KeyError, ValueError):
            raise CorruptError(f"{self.path}: the table meta is damaged") from None
        number = meta.get("device", 0) if device is None else device
        if not 0 <= number <= MAX_DEVICE:
            raise CorruptError(f"{self.path}: device number {number} is out of range")
        known = meta["next_inode"] if meta.get("device") == number and "next_inode" in meta else 0
        next_inode = max(known, self._highest_inode(number) + 1)
        self._journal_position = meta.get("journal_position", 0)
        self._saved: tuple[int, ...] = ()
        self._load_head()
        self._rows.commit = meta.get("open_commit", self._head.number + 1)
        self._state = State(
            self._rows,
            self._extents,
            self._xattrs,
            self.points,
            self.writers,
            self.devices,
            self.epochs,
            number,
            next_inode,
            next_inode - 1,
            *totals,
        )

    def _highest_inode(self, device: int) -> int:
        """The highest number of the device in any row. One that came and went within a commit left
        none, and nothing refers to it."""
        bindings = {"end": (device + 1) << DEVICE_SHIFT}
        highest = int(value_of(self._connection, _HIGHEST, bindings))
        return max(highest, (device << DEVICE_SHIFT) - 1, ROOT_INODE)

    def _load_head(self) -> None:
        found = self._connection.execute(_LAST_COMMIT).fetchone()
        number, commit_hash, time_ns = found or (0, NO_COMMIT, 0)
        self._head, self._last_time = Head(number, commit_hash), int(time_ns)

    def head(self) -> Head:
        """The newest commit that was recorded."""
        return self._head

    def last_commit_time(self) -> int:
        """The time of the newest recorded commit, nanoseconds; 0 if there is none."""
        return self._last_time

    @property
    def commit(self) -> int:
        """The open commit: what changes now is born in it."""
        return self._rows.commit

    @property
    def device(self) -> int:
        """This machine's number."""
        return self._state.device

    def become(self, device: int) -> None:
        """From now on the machine is `device`, and inode numbers come from it. Idempotent."""
        if device != self._state.device:
            self._rows.write_rows()
            self._state.device, self._state.created = device, self._highest_inode(device)
            self._state.next_inode = self._state.created + 1

    def begin_commit(self, number: int) -> None:
        """Open commit `number`, which is not lower than the open one. Later changes belong to it."""
        if number < self._rows.commit:
            raise OutOfDateError(f"commit {number} cannot open after {self._rows.commit}")
        self._rows.commit = number

    def inode(self, number: int) -> InodeRow | None:
        """The live row, to be read at once and never changed; None if there is none."""
        return self._rows.inodes.get(number)

    def entry(self, parent: int, name: bytes) -> DentryRow | None:
        """The name in the directory, or None."""
        return self._rows.entries.get((parent, name))

    def entries(self, parent: int, after_cookie: int, limit: int) -> list[DentryRow]:
        """At most `limit` names with cookies above `after_cookie`, in the order of cookies. A name that
        stays throughout a listing is in it exactly once, whatever comes and goes."""
        unwritten = self._rows.unwritten(parent)
        found = self._connection.execute(_ENTRIES, (parent, after_cookie, limit + len(unwritten)))
        rows = merged(found, unwritten, lambda row: row.cookie > after_cookie, attrgetter("cookie"))
        return rows[:limit]

    def entries_by_name(self, parent: int, start: bytes, end: bytes, limit: int) -> list[DentryRow]:
        """At most `limit` names in [start, end), in the order of bytes; all, if it is negative."""
        unwritten = self._rows.unwritten(parent)
        most = limit + len(unwritten) if limit >= 0 else limit
        found = self._connection.execute(_NAMES, (parent, start, end, most))
        rows = merged(found, unwritten, lambda row: start <= row.name < end, attrgetter("name"))
        return rows[:limit] if limit >= 0 else rows

    def xattr(self, inode: int, name: bytes) -> bytes | None:
        """The value of an extended attribute, or None."""
        return self._xattrs.of(inode).get(name)

    def xattr_names(self, inode: int) -> list[bytes]:
        """The names of all extended attributes, sorted."""
        return sorted(self._xattrs.of(inode))

    def extents(self, inode: int, start: int, end: int) -> list[Extent]:
        """The extents that touch [start, end), sorted by offset, whole (not clipped)."""
        return self._extents.find(inode, start, end)

    def small_blocks(self, inodes: Sequence[int], most: int) -> list[bytes]:
        """The first block of each of these files that begins with an extent of up to `most` bytes."""
        return self._extents.small_blocks(inodes, most)

    def orphans(self) -> list[int]:
        """Inodes without a name, sorted: after a crash nobody has them open."""
        self._rows.write_inodes()
        return [number for (number,) in self._connection.execute("SELECT inode FROM inode WHERE nlink = 0")]

    def statistics(self) -> Statistics:
        """The totals, kept up with every operation."""
        state = self._state
        return Statistics(state.inodes, state.files, state.entries, state.bytes, state.allocated)

    def allocate_inode(self) -> int:
        """A number that this device has never given. It is taken for good by the `Create` that is
        journaled with it."""
        number = self._state.next_inode
        if number >> DEVICE_SHIFT != self._state.device:
            raise CorruptError(f"{self.path}: device {self._state.device} has used all its inode numbers")
        self._state.next_inode = number + 1
        return number

    def apply(self, operation: Operation, commit: int | None = None) -> None:
        """The one reducer. `commit` is the open commit (None); for `SetExtents` it may be an
        earlier one, if for that inode it is not before the last. The rows then are as if it had come in
        time. `MalformedError` if it is none at all, `OutOfDateError` if it does not fit the state, which then
        is unchanged; `ReadOnlyError`. Not idempotent: replay begins exactly at `journal_position`."""
        if self.read_only:
            raise ReadOnlyError(f"{self.path}: the namespace is open for reading only")
        reduce(self._state, operation, commit)

    def record_commit(self, number: int, commit_hash: bytes, time_ns: int, device: int = 0) -> None:
        """Note a published commit, the next in number, of `device` (0: nobody). On disk with the next
        `save`.
        `OutOfDateError`: it is not after the newest."""
        if number <= self._head.number or time_ns < self._last_time:
            raise OutOfDateError(f"commit {number} cannot follow {self._head.number}, or is older")
        self._rows.write(insert("commits", ("number", "hash", "time_ns")), [(number, commit_hash, time_ns)])
        self._head, self._last_time = Head(number, commit_hash), time_ns
        if device:
            self.devices.recorded(number, device)
        self.points.recorded(number)

    def journal_position(self) -> int:
        """The position where replay begins: that of the last `save`; 0 before the first."""
        return self._journal_position

    def save(self, journal_position: int) -> None:
        """Commit everything applied so far together with `journal_position`, which must be just behind
        it. Writes nothing if nothing changed. `NoSpaceError`, `TransientError`: nothing is lost, nothing is
        committed, call again."""
        self._rows.write_rows()
        local = (journal_position, self._state.device, self._state.next_inode, self._rows.commit)
        if local == self._saved and not self._connection.in_transaction:
            return
        totals = self.statistics()._asdict()
        self._rows.write_meta({**totals, **dict(zip(LOCAL_META, local, strict=True))})
        self._rows.commit_transaction()
        self._saved = local
        self._journal_position = journal_position

    def checkpoint(self) -> int | None:
        """Bring the write-ahead log into the database, with fsync: for a worker thread, on a connection
        of its own. The journal position that is now safe from a power cut, or None if a reader or another
        checkpoint was in the way; safe to retry and to call at any time."""
        return self._file.checkpoint()

    def empty_log(self) -> None:
        """Cut the write-ahead log to nothing, if `checkpoint` has brought all of it into the database: else
        deleted names stay in it. Who is in the way is not waited for."""
        self._file.empty_log(self._connection)

    def undo(self, to_commit: int) -> None:
        """Take back all commits after `to_commit`; the next one is open then. On disk with the next `save`,
        whose journal position must be one from which replay fits what is left."""
        self._rows.write_rows()
        change = take_back(self._connection, self._rows.write, to_commit)
        self._forget()
        self.points.reload()
        self._load_head()
        self._state.inodes += change.inodes
        self._state.files += change.files
        self._state.entries += change.entries
        self._state.bytes += change.bytes
        self._state.allocated += change.allocated
        self._rows.commit = to_commit + 1

    def savepoint(self) -> Savepoint:
        """The present state, for `roll_back`."""
        self._rows.write_rows()
        return Savepoint(self._rows.written, self._rows.commit, replace(self._state))

    def roll_back(self, savepoint: Savepoint) -> None:
        """Take back whatever was done since, recorded commits and `undo` too; nothing may have been saved
        since. `NoSpaceError`, `TransientError`: the namespace must not be saved, and be opened anew."""
        self._rows.roll_back(savepoint.written)
        self._forget()
        self.points.reload()
        self._load_head()
        self._state, self._rows.commit = replace(savepoint.state), savepoint.commit

    def shadow(self, apart: int = 0) -> Shadow[Namespace] | None:
        """One that begins as this one is (`cache.namespace.shadow`), and does not give the next `apart` inode
        numbers, which this one may. None: not all of it is saved."""
        if not self._rows.is_clean or self._connection.in_transaction:
            return None
        with ExitStack() as opened:
            twin, before = self._beside(opened), self._beside(opened)
            close = opened.pop_all().close
        twin._state.next_inode += apart
        connections = (twin._connection, before._connection)

        def interrupt() -> None:
            for each in connections:
                each.interrupt()

        shadow = Shadow(twin, before, interrupt, close, twin._state.next_inode)
        self._rows.before_transaction = shadow.give_way
        return shadow

    def _beside(self, opened: ExitStack) -> Namespace:
        """Another one on the same database, which `opened` closes."""
        twin = copy(self)
        twin._connection = self._file.open_beside()
        opened.callback(twin._connection.close)
        with sqlite_errors(self.path):
            twin._load(self.device)
        return twin

    def is_apart(self, shadow: Shadow[Namespace]) -> bool:
        """Whether this one has given no number that `shadow` may have given too, to another inode."""
        return self._state.next_inode <= shadow.first_number

    def take_place(self, shadow: Shadow[Namespace]) -> None:
        """Be what `shadow` has become, which is there still, and apart. On disk with the next `save`."""
        before, given = self._connection, self._state.next_inode
        shadow.is_there = False
        self.__dict__.update(shadow.namespace.__dict__)
        self._state.next_inode = max(given, self._state.created + 1)
        before.close()
        shadow.before._connection.close()

    def _forget(self) -> None:
        self._rows.forget()
        self._extents.forget()
        self._xattrs.forget()
        self.devices.forget()

    def synced_connection(self) -> Connection:
        """For `History`: the connection, on which SQL sees everything applied so far. Read only."""
        self._rows.write_rows()
        return self._connection

    def replace_from(self, path: str, journal_position: int) -> None:
        """Become the database at `path`, which has passed `snapshot.verify_hostile`, is closed, and lies in
        the same file system; it is moved here. Durable on return; blocks on the disk."""
        self._file.replace_by(path, self._connection, journal_position, self.device)
        self._open(self.device)

    def close(self) -> None:
        """Close the database; what was not saved is dropped (the journal has it). Idempotent."""
        self._file.close(self._connection)
