"""backend.blocks.sqlite_index: what is added is found, repairs are listed, foreign files refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from backend.blocks.block_index import BlockLocation
from backend.blocks.located_blocks import LOCATED
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.errors import CorruptError, FormatError, NoSpaceError, TransientError
from backend.packs.pack import Pack
from backend.packs.pack_format import PackEntry
from backend.system import THIS_MACHINE, at_rest
from backend.upstream import BlockId

DRIVE = bytes(range(16))
NODES = ("node2", "node0", "node1")


def block(number: int) -> BlockId:
    return BlockId(number.to_bytes(32, "big"))


def pack(number: int, missing: int = 0) -> Pack:
    return Pack(number.to_bytes(16, "big"), 1000, 1700, NODES, missing)


def entries(*numbers: int) -> list[PackEntry]:
    return [PackEntry(block(number), 40 + 10 * place, 10) for place, number in enumerate(numbers)]


@pytest.fixture
def index() -> Iterator[SqliteBlockIndex]:
    index = SqliteBlockIndex(":memory:", DRIVE, 32)
    yield index
    index.close()


def test_what_is_added_is_found(index: SqliteBlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    assert index.locate(block(2)) == BlockLocation(pack(1), 50, 10)
    assert index.locate(block(3)) is None
    assert [index.has(block(number)) for number in (1, 2, 3)] == [True, True, False]
    assert index.packs.get(pack(1).id) == pack(1)
    assert index.packs.get(pack(2).id) is None
    assert index.packs.ids(b"", 9) == [pack(1).id]


def test_a_location_is_looked_up_once_until_something_changes(index: SqliteBlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    queries: list[str] = []

    def note(_cursor: apsw.Cursor, query: str, _values: object) -> bool:
        queries.append(query)
        return True

    index.database.connection.exec_trace = note
    for _ in range(3):
        assert index.locate(block(2)) == BlockLocation(pack(1), 50, 10)
        assert index.locate(block(9)) is None
    assert len(queries) == 5, "twice for the block and its pack, each time for one that is not there"
    index.move(pack(2), entries(7, 1, 2), [pack(1).id])
    assert index.locate(block(2)) == BlockLocation(pack(2), 60, 10)
    index.packs.set_missing(pack(2).id, 5)
    assert index.locate(block(2)) == BlockLocation(pack(2, missing=5), 60, 10)
    index.packs.set_nodes(pack(2).id, ["node3", "node0", "node1"])
    found = index.locate(block(2))
    assert found is not None
    assert found.pack.nodes == ("node3", "node0", "node1")
    index.dying.mark(b"", None, [block(2)], now_ns=1)
    assert index.locate(block(2)) is not None
    index.dying.forget(until_ns=2, limit=10)
    assert index.locate(block(2)) is None
    assert index.locate(block(1)) is not None


def test_statements_are_not_compiled_anew_for_each_value(index: SqliteBlockIndex) -> None:
    assert index.database.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1)


def test_many_locations_are_not_all_kept(index: SqliteBlockIndex) -> None:
    numbers = range(2 * LOCATED)
    index.add_pack(pack(1), entries(*numbers))
    assert all(index.locate(block(number)) is not None for number in numbers)
    assert len(index.located) <= LOCATED


def test_a_pack_is_added_once_and_the_first_place_of_a_block_counts(index: SqliteBlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    index.add_pack(pack(1), entries(3))
    index.add_pack(pack(2), entries(9, 2))
    assert not index.has(block(3))
    found = index.locate(block(2))
    assert found is not None
    assert found.pack.id == pack(1).id
    sums = index.packs.statistics(0, 99)
    assert (sums.blocks, sums.block_bytes, sums.packs, sums.stored_bytes) == (4, 40, 2, 3400)


def test_an_empty_index_has_sums(index: SqliteBlockIndex) -> None:
    sums = index.packs.statistics(0, 99)
    assert (sums.blocks, sums.block_bytes, sums.packs, sums.stored_bytes, sums.packs_to_repair) == (0,) * 5


def test_repairs_are_queued_in_order_and_end(index: SqliteBlockIndex) -> None:
    for number in range(4):
        index.add_pack(pack(number, missing=4 if number == 2 else 0), entries(number))
    index.packs.want_repair(pack(3).id, missing=1)
    index.packs.want_repair(pack(3).id, missing=2)
    index.packs.want_repair(pack(1).id)
    assert index.packs.to_repair(9) == [pack(1), pack(2, 4), pack(3, 3)]
    assert index.packs.to_repair(1, skip=1) == [pack(2, 4)]
    assert index.packs.statistics(0, 99).packs_to_repair == 3
    index.packs.set_missing(pack(1).id, 0)
    index.packs.set_missing(pack(3).id, 2)
    assert index.packs.to_repair(9) == [pack(2, 4), pack(3, 2)]


def test_nodes_may_change(index: SqliteBlockIndex) -> None:
    index.add_pack(pack(1), entries(1))
    index.packs.set_nodes(pack(1).id, ("a", "b", "c"))
    found = index.packs.get(pack(1).id)
    assert found is not None
    assert found.nodes == ("a", "b", "c")


def test_a_pack_is_added_whole_or_not_at_all(index: SqliteBlockIndex) -> None:
    with pytest.raises(TypeError):
        index.add_pack(pack(1), [*entries(1), PackEntry(object(), 0, 0)])  # type: ignore[arg-type]
    assert index.packs.ids(b"", 9) == []
    assert not index.has(block(1))


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    index = SqliteBlockIndex(path, DRIVE, 32)
    index.add_pack(pack(1, missing=2), entries(1))
    index.close()
    index.close()
    index = SqliteBlockIndex(path, DRIVE, 32)
    assert index.locate(block(1)) == BlockLocation(pack(1, missing=2), 40, 10)
    index.close()


def test_the_index_of_another_drive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blocks.db"
    SqliteBlockIndex(str(path), DRIVE, 32).close()
    before = path.read_bytes()
    with pytest.raises(FormatError, match="another drive"):
        SqliteBlockIndex(str(path), bytes(16), 32)
    assert path.read_bytes() == before


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    other = apsw.Connection(path)
    other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(FormatError, match="no block index of version 4"):
        SqliteBlockIndex(path, DRIVE, 32)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    SqliteBlockIndex(path, DRIVE, 32).close()
    at_rest.unseal(path, THIS_MACHINE.disk)
    database = apsw.Connection(path)
    database.execute("PRAGMA user_version = 5")
    database.close()
    with pytest.raises(FormatError, match="version 4"):
        SqliteBlockIndex(path, DRIVE, 32)


def test_damage_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "blocks.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptError, match=r"remove blocks\.db"):
        SqliteBlockIndex(str(path), DRIVE, 32)


def test_a_full_disk_is_told_as_such(index: SqliteBlockIndex) -> None:
    index.database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(NoSpaceError):
        index.add_pack(pack(1), entries(*range(2000)))
    assert index.packs.ids(b"", 9) == []


def test_a_missing_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(TransientError):
        SqliteBlockIndex(str(tmp_path / "nowhere" / "blocks.db"), DRIVE, 32)


def steps(index: SqliteBlockIndex, work: Callable[[], object]) -> int:
    """So many instructions SQLite takes for it."""
    count = 0

    def counted() -> bool:
        nonlocal count
        count += 1
        return False

    index.database.connection.set_progress_handler(counted, 1)
    try:
        work()
    finally:
        index.database.connection.set_progress_handler(None)
    return count


@pytest.mark.parametrize("missing", [0, 1])
def test_adding_a_pack_looks_at_its_own_blocks_however_many_packs_there_are(
    index: SqliteBlockIndex, missing: int
) -> None:
    found = []
    for count in (10, 1000):
        for number in range(2, count):
            index.add_pack(pack(number + count, missing), entries(number))
        found.append(steps(index, partial(index.add_pack, pack(count), entries(1, 5000))))
    assert found[1] < 2 * found[0]


def test_a_block_is_read_from_where_least_is_missing(index: SqliteBlockIndex) -> None:
    index.add_pack(pack(1, missing=0b11), entries(1, 2))
    index.add_pack(pack(2, missing=0b100), entries(1))
    index.add_pack(pack(3), entries(2))
    index.add_pack(pack(4, missing=0b1), entries(1, 2))
    found = [index.locate(block(number)) for number in (1, 2)]
    assert [each and each.pack.id for each in found] == [pack(2).id, pack(3).id]
