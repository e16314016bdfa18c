"""The write-back layer over the namespace database: row objects in dictionaries, one transaction.

Invariants (event loop thread only, nothing here awaits):
1. A key has at most one row object: it is looked for in the two cache generations and among the dirty rows
   before SQL is asked. So the reducer may change objects in place.
2. Dirty rows, `past_*` lists and writes that were put off are not in SQL yet. `write_rows` brings them
   there, into the one open transaction. Queries for ranges run only after that.
3. Every write of the open transaction is in `_log` before it is tried. A write or a COMMIT may fail: a full
   disk rolls the transaction back, which is torn then. Nothing is lost: the whole log is executed again in
   a new transaction before anything else is written or committed.
4. The store remembers directories that were made lately, each with every name that it has had since.
   Whether such a directory lacks a name is known without SQL. Names are made in `add_entry` only.
5. The journal position is committed in the same transaction as the rows that it speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from backend.errors import DriveError
from backend.failpoints import declare
from backend.system import Environment
from cache.namespace.rows import (
    DENTRY_COLUMNS,
    INODE_COLUMNS,
    PAST_INODE_COLUMNS,
    DentryRow,
    InodeRow,
    dentry_values,
    inode_row,
    inode_values,
    past_inode_values,
)
from cache.namespace.schema import Connection, sqlite_errors

COMMITTING: Final = declare("namespace.committing", "rows and journal position are in the open transaction")

MOST_NAMES: Final = 131_072
"""Directories that were made lately, and names in them, that are kept: some 15 MB."""

WAL_PAGES: Final = 16384
"""64 MiB: above that `commit_transaction` makes a checkpoint itself."""

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


def insert(table: str, columns: Sequence[str]) -> str:
    """INSERT OR REPLACE of whole rows."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})"


_PUT_INODE: Final = insert("inode", INODE_COLUMNS)
_PUT_PAST_INODE: Final = insert("past_inode", (*PAST_INODE_COLUMNS, "died"))
_PUT_DENTRY: Final = insert("dentry", DENTRY_COLUMNS)
_PUT_PAST_DENTRY: Final = insert("past_dentry", (*DENTRY_COLUMNS, "died"))
_PUT_META: Final = insert("meta", ("key", "value"))
_GET_INODE: Final = f"SELECT {', '.join(INODE_COLUMNS)} FROM inode WHERE inode = ?"
_GET_DENTRY: Final = f"SELECT {', '.join(DENTRY_COLUMNS)} FROM dentry WHERE parent = ? AND name = ?"


def merged(
    found: Iterable[tuple[Any, ...]],
    unwritten: Mapping[bytes, DentryRow | None],
    is_wanted: Callable[[DentryRow], bool],
    order: Callable[[DentryRow], Any],
) -> list[DentryRow]:
    """The rows that SQL found, in that order, with those that are wanted of `RowStore.unwritten`."""
    rows = [DentryRow(*row) for row in found]
    if unwritten:
        rows = [row for row in rows if row.name not in unwritten]
        rows += [row for row in unwritten.values() if row is not None and is_wanted(row)]
        rows.sort(key=order)
    return rows


def _nobody() -> None:
    """Nobody else writes to the database."""


_UNKNOWN: Final = object()
"""The value of a key in a cache that does not know whether there is a row."""


class RowTable(Generic[K, R]):
    """Rows of one table by key; None is a remembered absence. At most 2 * `limit` clean rows are
    kept, in two generations: what was not used during a whole generation goes."""

    __slots__ = ("_hot", "_limit", "_load", "_old", "dirty")

    def __init__(self, load: Callable[[K], R | None], limit: int) -> None:
        self._load = load
        self._limit = limit
        self._hot: dict[K, R | None] = {}
        self._old: dict[K, R | None] = {}
        self.dirty: dict[K, R | None] = {}

    def get(self, key: K) -> R | None:
        """The row, or None if there is none. No SQL for what was used lately."""
        row = self._hot.get(key, _UNKNOWN)
        return self._warm(key) if row is _UNKNOWN else row  # type: ignore[return-value]

    def put(self, key: K, row: R | None) -> None:
        """The row is now this one (None: removed), and not in SQL yet."""
        self.dirty[key] = row
        self.keep(key, row)

    def keep(self, key: K, row: R | None) -> None:
        """Remember the row (None: that there is none), which SQL knows already."""
        self._hot[key] = row
        if len(self._hot) > self._limit:
            self._old = self._hot
            self._hot = {}

    def forget(self) -> None:
        """Drop every clean row. Only when nothing is dirty."""
        self._hot = {}
        self._old = {}

    def _warm(self, key: K) -> R | None:
        if key in self._old:
            row = self._old[key]
        elif key in self.dirty:
            row = self.dirty[key]
        else:
            row = self._load(key)
        self.keep(key, row)
        return row


class RowStore:
    """The tables `inode` and `dentry` with their past, and the transaction that all tables share."""

    def __init__(self, connection: Connection, path: str, limit: int, environment: Environment) -> None:
        self.connection = connection
        self.path = path
        self._failpoints = environment.failpoints
        self.commit = 0
        self.inodes: RowTable[int, InodeRow] = RowTable(self._load_inode, limit)
        self.entries: RowTable[tuple[int, bytes], DentryRow] = RowTable(self._load_entry, 2 * limit)
        self._names_of_new: dict[int, set[bytes]] = {}
        self._names_kept = 0
        self._past_inodes: list[tuple[Any, ...]] = []
        self._past_entries: list[tuple[Any, ...]] = []
        self._put_off: dict[str, list[tuple[Any, ...]]] = {}
        self._log: list[tuple[str, Sequence[tuple[Any, ...]]]] = []
        self._torn = False
        self._wal_pages = 0
        self.before_transaction: Callable[[], None] = _nobody
        """called once, before the next transaction: ends who may write to the database beside this one"""
        connection.set_wal_hook(self._note_wal)

    def _note_wal(self, _connection: Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return 0

    def _load_inode(self, inode: int) -> InodeRow | None:
        row = self.connection.execute(_GET_INODE, (inode,)).fetchone()
        return None if row is None else inode_row(row)

    def _load_entry(self, key: tuple[int, bytes]) -> DentryRow | None:
        names = self._names_of_new.get(key[0])
        if names is not None and key[1] not in names:
            return None
        row = self.connection.execute(_GET_DENTRY, key).fetchone()
        return None if row is None else DentryRow(*row)

    def version(self, row: InodeRow, commit: int) -> None:
        """Call before a change of `row` in `commit`: keeps what it was before that commit."""
        if row.born != commit:
            self._past_inodes.append((*past_inode_values(row), commit))
            row.born = commit
        self.inodes.dirty[row.inode] = row

    def remove_inode(self, row: InodeRow) -> None:
        """The inode ends in the open commit."""
        if row.born != self.commit:
            self._past_inodes.append((*past_inode_values(row), self.commit))
        self.inodes.put(row.inode, None)

    def add_inode(self, row: InodeRow) -> None:
        """A new inode, of a number that no inode ever had."""
        self.inodes.put(row.inode, row)
        if row.is_directory:
            self._names_of_new[row.inode] = set()
            self._note_kept()

    def add_entry(self, directory: InodeRow, name: bytes, inode: int) -> None:
        """A new name with the directory's next cookie; the directory is versioned already."""
        row = DentryRow(directory.inode, name, inode, directory.next_cookie, self.commit)
        directory.next_cookie += 1
        self.entries.put((directory.inode, name), row)
        names = self._names_of_new.get(directory.inode)
        if names is not None:
            names.add(name)
            self._note_kept()

    def _note_kept(self) -> None:
        """A name or a directory more. If there are too many, the older half of the directories goes."""
        self._names_kept += 1
        if self._names_kept > MOST_NAMES:
            for directory in list(self._names_of_new)[: (len(self._names_of_new) + 1) // 2]:
                del self._names_of_new[directory]
            self._names_kept = sum(len(names) + 1 for names in self._names_of_new.values())

    def remove_entry(self, row: DentryRow) -> None:
        """The name ends in the open commit."""
        if row.born != self.commit:
            self._past_entries.append((*dentry_values(row), self.commit))
        self.entries.put((row.parent, row.name), None)

    def point_entry(self, row: DentryRow, inode: int) -> None:
        """The name now means another inode, and keeps its cookie."""
        if row.born != self.commit:
            self._past_entries.append((*dentry_values(row), self.commit))
            row.born = self.commit
        row.inode = inode
        self.entries.dirty[(row.parent, row.name)] = row

    def write(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute in the open transaction, once for each of `rows`. `NoSpaceError`, `TransientError`: the
        write is in the log, and done with all others by the next call."""
        self._torn = self._torn or (bool(self._log) and not self.connection.in_transaction)
        self._log.append((sql, rows))
        with sqlite_errors(self.path):
            if self._torn:
                self._execute_log()
                return
            try:
                if not self.connection.in_transaction:
                    self._begin()
                self.connection.executemany(sql, rows)
            except BaseException:
                self._torn = True
                raise

    def _begin(self) -> None:
        end_other, self.before_transaction = self.before_transaction, _nobody
        end_other()
        self.connection.execute("BEGIN IMMEDIATE")

    @property
    def is_clean(self) -> bool:
        """Whether everything is committed."""
        rows = (self.inodes.dirty, self.entries.dirty, self._past_inodes, self._past_entries)
        return not any((*rows, self._put_off, self._log))

    @property
    def written(self) -> int:
        """The number of writes in the open transaction, for `roll_back`."""
        return len(self._log)

    def roll_back(self, written: int) -> None:
        """Take back all but the first so many writes of the open transaction, which has been the same since,
        and all that is not in SQL. Errors as of `write`."""
        self.inodes.dirty, self.entries.dirty = {}, {}
        self._past_inodes, self._past_entries, self._put_off = [], [], {}
        self.forget()
        del self._log[written:]
        with sqlite_errors(self.path):
            self._execute_log()

    def put_off(self, sql: str, values: tuple[Any, ...]) -> None:
        """As `write` of one row, with the next `write_rows`, where one call does it for many. For rows that
        are not asked for before. What is put off with one statement is done before what is with the next."""
        self._put_off.setdefault(sql, []).append(values)

    def _write_put_off(self) -> None:
        waiting, self._put_off = self._put_off, {}
        failures: list[BaseException] = []
        for sql, rows in waiting.items():
            try:
                self.write(sql, rows)
            except BaseException as error:  # it is in the log (3), and so have to be those after it, in order
                failures.append(error)
        if failures:
            raise failures[0]

    def write_inodes(self) -> None:
        """Bring inodes into the open transaction."""
        if self._past_inodes:
            self.write(_PUT_PAST_INODE, self._past_inodes)
            self._past_inodes = []
        if self.inodes.dirty:
            rows = self.inodes.dirty
            self._write_table("DELETE FROM inode WHERE inode = ?", _PUT_INODE, rows, inode_values, _single)
            self.inodes.dirty = {}

    def write_entries(self) -> None:
        """Bring names into the open transaction."""
        if self._past_entries:
            self.write(_PUT_PAST_DENTRY, self._past_entries)
            self._past_entries = []
        if self.entries.dirty:
            rows = self.entries.dirty
            remove = "DELETE FROM dentry WHERE parent = ? AND name = ?"
            self._write_table(remove, _PUT_DENTRY, rows, dentry_values, tuple)
            self.entries.dirty = {}

    def unwritten(self, parent: int) -> dict[bytes, DentryRow | None]:
        """By name in that directory, the rows that SQL does not know (None: removed), as long as it is not to
        be written because of somebody beside this one. Else brings names into the open transaction: none."""
        if self.before_transaction is _nobody:
            self.write_entries()
        return {name: row for (folder, name), row in self.entries.dirty.items() if folder == parent}

    def _write_table(
        self,
        remove: str,
        put: str,
        rows: dict[K, R | None],
        values: Callable[[R], tuple[Any, ...]],
        key_values: Callable[[K], tuple[Any, ...]],
    ) -> None:
        removed = [key_values(key) for key, row in rows.items() if row is None]
        if removed:
            self.write(remove, removed)
        changed = [values(row) for row in rows.values() if row is not None]
        if changed:
            self.write(put, changed)

    def write_rows(self) -> None:
        """Bring everything into the open transaction; SQL on this connection now sees it all."""
        self._write_put_off()
        self.write_inodes()
        self.write_entries()

    def write_meta(self, values: dict[str, int]) -> None:
        """Set keys of `meta`."""
        self.write(_PUT_META, [(key, str(value)) for key, value in values.items()])

    def commit_transaction(self) -> None:
        """COMMIT. If that fails nothing is lost and nothing is committed; safe to retry."""
        if not self._log and not self.connection.in_transaction:
            return
        try:
            with sqlite_errors(self.path):
                if self._torn or not self.connection.in_transaction:
                    self._execute_log()
                self._failpoints.reached(COMMITTING)
                self.connection.execute("COMMIT")
        except BaseException:
            self._torn = True
            with suppress(DriveError), sqlite_errors(self.path):
                self._execute_log()  # if not now, then by the next write or commit
            raise
        self._log = []
        self._bound_wal()

    def _bound_wal(self) -> None:
        """A write-ahead log begins anew only where a checkpoint has caught up between two transactions. If
        the checkpoints of the worker thread never meet such a pause, make one before it fills the disk:
        little is left to copy then."""
        if self._wal_pages > WAL_PAGES:
            with sqlite_errors(self.path):
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _execute_log(self) -> None:
        self._torn = True
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._begin()
        for sql, rows in self._log:
            self.connection.executemany(sql, rows)
        self._torn = False

    def forget(self) -> None:
        """Drop every cached row; what SQL says counts. Only after `write_rows`."""
        self.inodes.forget()
        self.entries.forget()
        self._names_of_new.clear()
        self._names_kept = 0


def _single(key: int) -> tuple[int]:
    return (key,)
