"""The retained points of a namespace: its recorded commits, the pins, the policy, and forgetting the rest.

Invariants (event loop thread only):
1. `commits` holds the retained points, and nothing but them: who shows the past as of a commit finds that
   commit there first. A row of the past that is true at a retained point is there, whole.
2. A Forget takes effect when its own commit is recorded, never before: the points go at once, with the
   record; their rows go afterwards, a few at a time (`forget_some`), and no query at a retained point sees
   them.
3. Forgetting looks only at rows that died inside the gap (index on `died`). A row [born, died) lies within
   (low, high) exactly if low < born and died <= high.
4. Nothing pinned is inside a gap, and no point inside a gap can be pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore, insert

_POLICY: Final = ("keep_all", "hourly", "daily", "weekly", "monthly")
_PUT_PIN: Final = insert("pin", ("name", "target", "born"))
_KEEP_PIN: Final = "INSERT INTO past_pin SELECT name, target, born, ? FROM pin WHERE name = ? AND born < ?"
_PUT_POLICY: Final = insert("retention", ("id", *_POLICY, "born"))
_KEEP_POLICY: Final = (
    f"INSERT INTO past_retention SELECT id, {', '.join(_POLICY)}, born, ? FROM retention WHERE born < ?"
)
_KEYS: Final = {
    "past_inode": "inode, born",
    "past_dentry": "parent, name, born",
    "past_xattr": "inode, name, born",
    "past_extent": "inode, offset, born",
    "past_pin": "name, born",
    "past_retention": "id, born",
    "past_writer": "id, born",
    "past_device": "number, born",
    "past_device_sequence": "number, born",
}
_REMOVE: Final = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN"
    f" (SELECT {key} FROM {table} WHERE died > ? AND died <= ? AND born > ? LIMIT ?)"
    for table, key in _KEYS.items()
)

Gap = tuple[int, int]


class Point(NamedTuple):
    """A retained commit."""

    number: int
    time_ns: int


class PointStore:
    """The tables `pin`, `retention`, `forgetting`, and what retention does to `commits` and `past_*`."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._waiting: list[tuple[int, int, int]] = []
        self.reload()

    def reload(self) -> None:
        """The tables were changed by others: read what waits for its commit to be recorded."""
        sql = "SELECT born, low, high FROM forgetting WHERE born > ?"
        self._waiting = list(self._store.connection.execute(sql, (self._head(),)))

    def _head(self) -> int:
        row = self._store.connection.execute("SELECT max(number) FROM commits").fetchone()
        return int(row[0] or 0) if row else 0

    # Looking

    def points(self) -> list[Point]:
        """All retained points, the oldest first."""
        found = self._store.connection.execute("SELECT number, time_ns FROM commits ORDER BY number")
        return [Point(*row) for row in found]

    def hashes(self) -> dict[int, bytes]:
        """The hash of each retained commit, by number."""
        return dict(self._store.connection.execute("SELECT number, hash FROM commits"))

    def is_retained(self, commit: int) -> bool:
        """Whether the drive can be seen as of `commit`, now and until the next Forget."""
        sql = "SELECT 1 FROM commits WHERE number = ?"
        return self._store.connection.execute(sql, (commit,)).fetchone() is not None

    def pins(self) -> dict[bytes, int]:
        """Name to commit."""
        return dict(self._store.connection.execute("SELECT name, target FROM pin ORDER BY name"))

    def policy(self) -> tuple[int, int, int, int, int] | None:
        """The fields of the last SetRetention; None if there was none."""
        sql = f"SELECT {', '.join(_POLICY)} FROM retention"
        return self._store.connection.execute(sql).fetchone()

    @property
    def is_waiting(self) -> bool:
        """Whether a Forget is not in effect because its commit is not recorded."""
        return bool(self._waiting)

    # What the reducer does

    def pin(self, name: bytes, commit: int) -> None:
        """`OutOfDateError` if the name is taken, or the point is not retained or about to go."""
        if name in self.pins():
            raise OutOfDateError("an operation pins a name that is there already")
        if not self.is_retained(commit) or self.is_going(commit):
            raise OutOfDateError(f"an operation pins commit {commit}, which is no retained point")
        self._store.write(_PUT_PIN, [(name, commit, self._store.commit)])

    def unpin(self, name: bytes) -> None:
        if name not in self.pins():
            raise OutOfDateError("an operation removes a pin that is not there")
        commit = self._store.commit
        self._store.write(_KEEP_PIN, [(commit, name, commit)])
        self._store.write("DELETE FROM pin WHERE name = ?", [(name,)])

    def set_policy(self, policy: Sequence[int]) -> None:
        commit = self._store.commit
        self._store.write(_KEEP_POLICY, [(commit, commit)])
        self._store.write(_PUT_POLICY, [(0, *policy, commit)])

    def forget(self, gaps: Sequence[Gap]) -> None:
        """Note the gaps; they take effect with `recorded`. `OutOfDateError` for anything but gaps among
        the recorded commits, without a pin."""
        self._check(gaps)
        commit = self._store.commit
        rows = [(commit, low, high) for low, high in gaps]
        self._store.write(insert("forgetting", ("born", "low", "high")), rows)
        self._waiting += rows

    def _check(self, gaps: Sequence[Gap]) -> None:
        head, pinned = self._head(), sorted(self.pins().values())
        for low, high in gaps:
            if high > head:
                raise OutOfDateError(f"an operation forgets from {low} to {high}: not recorded")
            if any(low < commit < high for commit in pinned):
                raise OutOfDateError(f"an operation forgets a pinned point between {low} and {high}")
            if any(
                low < waiting_high and waiting_low < high for _, waiting_low, waiting_high in self._waiting
            ):
                raise OutOfDateError(f"an operation forgets from {low} to {high} what is being forgotten")

    def is_going(self, commit: int) -> bool:
        """Whether a Forget that is not in effect yet drops the point."""
        return any(low < commit < high for _, low, high in self._waiting)

    # Taking effect

    def recorded(self, commit: int) -> None:
        """Commit `commit` was recorded: what it, or an earlier one, forgets are no points from now on."""
        due = [(low, high) for born, low, high in self._waiting if born <= commit]
        if due:
            self._store.write("DELETE FROM commits WHERE number > ? AND number < ?", due)
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > commit]

    def forget_some(self, limit: int) -> bool:
        """Remove at most `limit` rows of what is to go; False when nothing is left. Any number of
        calls, interrupted anywhere, ends in the same rows."""
        sql = "SELECT born, low, high FROM forgetting WHERE born <= ? ORDER BY born, low LIMIT 1"
        due = self._store.connection.execute(sql, (self._head(),)).fetchone()
        if due is None:
            return False
        born, low, high = due
        self._store.write_rows()  # past rows that are not in SQL yet may be among those that go
        left = limit
        for remove in _REMOVE:
            self._store.write(remove, [(low, high, low, left)])
            left -= self._store.connection.changes()
            if left <= 0:
                return True
        self._store.write("DELETE FROM forgetting WHERE born = ? AND low = ?", [(born, low)])
        return True
