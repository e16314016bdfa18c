"""Seals: a database that changed while it was closed is not believed; of others nothing is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.errors import CorruptError
from backend.system import THIS_MACHINE, at_rest
from cache.namespace.namespace import Namespace
from tests.small_drive import flip

DRIVE = bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    path.write_bytes(bytes(10_000))
    return path


def test_a_seal_fits_until_a_bit_changes(path: Path) -> None:
    at_rest.seal(str(path), THIS_MACHINE.disk)
    assert not at_rest.is_damaged(str(path))
    flip(path, 7_000, 3)
    assert at_rest.is_damaged(str(path))
    flip(path, 7_000, 3)
    assert not at_rest.is_damaged(str(path))


def test_a_damaged_seal_and_a_database_that_is_gone_are_told(path: Path) -> None:
    at_rest.seal(str(path), THIS_MACHINE.disk)
    flip(Path(f"{path}.seal"), 5, 0)
    assert at_rest.is_damaged(str(path))
    path.unlink()
    assert at_rest.is_damaged(str(path))


def test_without_a_seal_nothing_is_claimed(path: Path) -> None:
    assert not at_rest.is_damaged(str(path))
    at_rest.seal(str(path), THIS_MACHINE.disk)
    at_rest.unseal(str(path), THIS_MACHINE.disk)
    at_rest.unseal(str(path), THIS_MACHINE.disk)
    flip(path, 7_000, 3)
    assert not at_rest.is_damaged(str(path))


def test_what_is_not_whole_in_one_file_gets_no_seal(path: Path) -> None:
    Path(f"{path}-wal").touch()
    at_rest.seal(str(path), THIS_MACHINE.disk)
    assert not Path(f"{path}.seal").exists()


def test_removing_takes_all_files(path: Path) -> None:
    at_rest.seal(str(path), THIS_MACHINE.disk)
    at_rest.remove_database(str(path), THIS_MACHINE.disk)
    at_rest.remove_database(str(path), THIS_MACHINE.disk)
    assert list(path.parent.iterdir()) == []


def test_the_index_is_sealed_only_while_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "blocks.db"
    index = SqliteBlockIndex(str(path), DRIVE, 2)
    assert not (tmp_path / "blocks.db.seal").exists()
    index.close()
    index.close()
    assert (tmp_path / "blocks.db.seal").exists()
    flip(path, path.stat().st_size - 1, 0)
    with pytest.raises(CorruptError, match="changed since it was closed"):
        SqliteBlockIndex(str(path), DRIVE, 2)


def test_the_namespace_is_sealed_only_while_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "namespace.db"
    namespace = Namespace(str(path))
    assert not (tmp_path / "namespace.db.seal").exists()
    namespace.close()
    namespace.close()
    Namespace(str(path)).close()
    flip(path, path.stat().st_size - 1, 0)
    with pytest.raises(CorruptError, match="changed since it was closed"):
        Namespace(str(path))
