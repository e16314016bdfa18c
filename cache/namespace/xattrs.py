"""Extended attributes of the namespace: written through to SQL, all of an inode's cached together.

Those of an inode that ends leave SQL together with those of others: nobody asks for them before.

Event loop thread only. Attributes are few and change seldom, but the kernel asks for some at every
write (`security.capability`), so that an inode has none is remembered too.
"""

from __future__ import annotations

from typing import Final

from cache.namespace.row_store import RowStore, RowTable, insert

_PUT: Final = insert("xattr", ("inode", "name", "value", "born"))
_KEEP_ONE: Final = (
    "INSERT INTO past_xattr SELECT inode, name, value, born, ? FROM xattr"
    " WHERE inode = ? AND name = ? AND born < ?"
)
_KEEP_ALL: Final = (
    "INSERT INTO past_xattr SELECT inode, name, value, born, ? FROM xattr WHERE inode = ? AND born < ?"
)


class XattrStore:
    """The tables `xattr` and `past_xattr`."""

    def __init__(self, store: RowStore, limit: int) -> None:
        self._store = store
        self._cached: RowTable[int, dict[bytes, bytes]] = RowTable(self._load, limit)

    def _load(self, inode: int) -> dict[bytes, bytes]:
        sql = "SELECT name, value FROM xattr WHERE inode = ? ORDER BY name"
        return dict(self._store.connection.execute(sql, (inode,)))

    def of(self, inode: int) -> dict[bytes, bytes]:
        """Name to value; to be read only."""
        return self._cached.get(inode) or {}

    def born_empty(self, inode: int) -> None:
        """A new inode: it has no attributes, so SQL need not be asked."""
        self._cached.keep(inode, None)

    def set(self, inode: int, name: bytes, value: bytes) -> None:
        """Make or replace an attribute in the open commit."""
        commit, present = self._store.commit, self.of(inode)
        if name in present:
            self._store.write(_KEEP_ONE, [(commit, inode, name, commit)])
        self._store.write(_PUT, [(inode, name, value, commit)])
        self._cached.keep(inode, {**present, name: value})

    def remove(self, inode: int, name: bytes) -> None:
        """Remove an attribute that exists in the open commit."""
        commit = self._store.commit
        self._store.write(_KEEP_ONE, [(commit, inode, name, commit)])
        self._store.write("DELETE FROM xattr WHERE inode = ? AND name = ?", [(inode, name)])
        self._cached.keep(inode, {key: value for key, value in self.of(inode).items() if key != name})

    def remove_all(self, inode: int) -> None:
        """The inode ends."""
        if not self.of(inode):
            return
        commit = self._store.commit
        self._store.put_off(_KEEP_ALL, (commit, inode, commit))
        self._store.put_off("DELETE FROM xattr WHERE inode = ?", (inode,))
        self._cached.keep(inode, {})

    def forget(self) -> None:
        """Drop the cache."""
        self._cached.forget()
