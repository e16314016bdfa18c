"""The makers of a drive's commits: device and host, system-versioned like all else.

Invariants (event-loop thread only):
1. The row that is live in commit N names the maker of N. A maker other than the one before says so by a
   `SetWriter` in its first commit. Of commits from before the first `SetWriter` nothing is known.
2. It is information for people, and nothing relies on it: a host's name is whatever its owner calls it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cache.namespace.row_store import RowStore, insert

_PUT: Final = insert("writer", ("id", "device", "host", "born"))
_OF: Final = (
    "SELECT device FROM writer WHERE born <= ? UNION ALL"
    " SELECT device FROM past_writer WHERE born <= ? AND died > ? LIMIT 1"
)
_KEEP: Final = "INSERT INTO past_writer SELECT id, device, host, born, ? FROM writer WHERE born < ?"


class CommitWriter(NamedTuple):
    """A device, and the name of the host that it was."""

    device: int
    host: bytes


class WriterStore:
    """The tables `writer` and `past_writer`."""

    def __init__(self, store: RowStore) -> None:
        self._store = store

    def newest(self) -> CommitWriter | None:
        """The maker of the open commit, as far as it was said; None if nobody ever said."""
        found = self._store.connection.execute("SELECT device, host FROM writer").fetchone()
        return None if found is None else CommitWriter(*found)

    def of(self, commit: int) -> int | None:
        """The device that made a published commit, as far as it was said."""
        found = self._store.connection.execute(_OF, (commit, commit, commit)).fetchone()
        return None if found is None else int(found[0])

    def put(self, writer: CommitWriter) -> None:
        """From the open commit on it is `writer`."""
        commit = self._store.commit
        self._store.write(_KEEP, [(commit, commit)])
        self._store.write(_PUT, [(0, *writer, commit)])
