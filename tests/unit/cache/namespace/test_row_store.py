"""The row layer where SQLite fails in the middle of a transaction: nothing that was applied is lost."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from backend.errors import TransientError
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, Create, Delete, SetExtents, Unlink


class FailingDisk:
    """Has one statement of a connection fail, with or without losing the transaction."""

    def __init__(self, namespace: Namespace, fails_at: int, *, rolls_back: bool) -> None:
        self._connection = namespace.synced_connection()
        self._left = fails_at
        self._rolls_back = rolls_back
        self._connection.exec_trace = self._trace

    def _trace(self, _cursor: apsw.Cursor, _sql: str, _values: object) -> bool:
        self._left -= 1
        if self._left == 0:
            if self._rolls_back:
                self._connection.execute("ROLLBACK")
            raise apsw.IOError("disk I/O error")
        return True


def _create(namespace: Namespace, name: bytes) -> int:
    inode = namespace.allocate_inode()
    namespace.apply(Create(ROOT_INODE, name, inode, 0o100644, 0, 0, 0, b"", 1))
    return inode


@pytest.mark.parametrize("rolls_back", [False, True])
@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_write_that_fails_loses_nothing(tmp_path: Path, fails_at: int, rolls_back: bool) -> None:
    path = str(tmp_path / "namespace.db")
    namespace = Namespace(path, device=1)
    kept, gone = _create(namespace, b"kept"), _create(namespace, b"gone")
    namespace.save(1)
    namespace.begin_commit(2)
    namespace.apply(Unlink(ROOT_INODE, b"gone", gone, 2))
    later = _create(namespace, b"later")
    FailingDisk(namespace, fails_at, rolls_back=rolls_back)
    failed = False
    try:
        namespace.save(2)
    except TransientError:
        failed = True
        assert namespace.journal_position() == 1
    assert failed
    _create(namespace, b"after")
    namespace.save(3)
    namespace.close()
    again = Namespace(path, device=1)
    names = {entry.name for entry in again.entries(ROOT_INODE, 0, 10)}
    assert names == {b"kept", b"later", b"after"}
    assert again.entry(ROOT_INODE, b"kept").inode == kept  # type: ignore[union-attr]
    assert again.entry(ROOT_INODE, b"later").inode == later  # type: ignore[union-attr]
    assert again.inode(gone).nlink == 0  # type: ignore[union-attr]
    assert again.journal_position() == 3
    again.close()


@pytest.mark.parametrize("rolls_back", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_what_was_put_off_keeps_its_order_when_it_fails(
    tmp_path: Path, fails_at: int, rolls_back: bool
) -> None:
    """Else the extents of the next file that goes are deleted before they are kept for the past."""
    namespace = Namespace(str(tmp_path / "namespace.db"), device=1)
    files = {name: _create(namespace, name) for name in (b"one", b"two")}
    for inode in files.values():
        namespace.apply(SetExtents(inode, 0, ((0, 10),), ((0, 10, bytes(32), 0),)))
    namespace.save(1)
    namespace.begin_commit(2)
    FailingDisk(namespace, fails_at, rolls_back=rolls_back)
    _remove(namespace, b"one", files[b"one"])
    with pytest.raises(TransientError):
        namespace.save(2)
    _remove(namespace, b"two", files[b"two"])
    namespace.save(3)
    connection = namespace.synced_connection()
    past = [row[0] for row in connection.execute("SELECT inode FROM past_extent ORDER BY inode")]
    assert past == sorted(files.values())
    assert connection.execute("SELECT count(*) FROM extent").fetchall() == [(0,)]
    namespace.close()


def _remove(namespace: Namespace, name: bytes, inode: int) -> None:
    namespace.apply(Unlink(ROOT_INODE, name, inode, 2))
    namespace.apply(Delete(inode))
