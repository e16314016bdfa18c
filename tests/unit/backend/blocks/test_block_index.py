"""backend.blocks.block_index: what is added is found, repairs are listed, foreign files refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from backend.blocks.block_index import LOCATED, BlockIndex, BlockLocation
from backend.errors import CorruptError, FormatError, NoSpaceError, TransientError
from backend.packs.pack import Pack
from backend.packs.pack_format import PackEntry
from backend.system import at_rest
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
def index() -> Iterator[BlockIndex]:
    index = BlockIndex(":memory:", DRIVE)
    yield index
    index.close()


def test_what_is_added_is_found(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    assert index.locate(block(2)) == BlockLocation(pack(1), 50, 10)
    assert index.locate(block(3)) is None
    assert [index.has(block(number)) for number in (1, 2, 3)] == [True, True, False]
    assert index.pack(pack(1).id) == pack(1)
    assert index.pack(pack(2).id) is None
    assert index.pack_ids() == {pack(1).id}


def test_a_location_is_looked_up_once_until_something_changes(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    queries: list[str] = []

    def note(_cursor: apsw.Cursor, query: str, _values: object) -> bool:
        queries.append(query)
        return True

    index._database.exec_trace = note
    for _ in range(3):
        assert index.locate(block(2)) == BlockLocation(pack(1), 50, 10)
        assert index.locate(block(9)) is None
    assert len(queries) == 5, "twice for the block and its pack, each time for one that is not there"
    index.move(pack(2), entries(7, 1, 2), [pack(1).id])
    assert index.locate(block(2)) == BlockLocation(pack(2), 60, 10)
    index.set_missing(pack(2).id, 5)
    assert index.locate(block(2)) == BlockLocation(pack(2, missing=5), 60, 10)
    index.set_nodes(pack(2).id, ["node3", "node0", "node1"])
    found = index.locate(block(2))
    assert found is not None
    assert found.pack.nodes == ("node3", "node0", "node1")
    index.set_dying([block(2)], now_ns=1)
    assert index.locate(block(2)) is not None
    index.forget_dying(until_ns=2, limit=10)
    assert index.locate(block(2)) is None
    assert index.locate(block(1)) is not None
    index.clear()
    assert index.locate(block(1)) is None


def test_statements_are_not_compiled_anew_for_each_value(index: BlockIndex) -> None:
    assert index._database.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1)


def test_many_locations_are_not_all_kept(index: BlockIndex) -> None:
    numbers = range(2 * LOCATED)
    index.add_pack(pack(1), entries(*numbers))
    assert all(index.locate(block(number)) is not None for number in numbers)
    assert len(index._located) <= LOCATED


def test_a_pack_is_added_once_and_the_first_place_of_a_block_counts(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1, 2))
    index.add_pack(pack(1), entries(3))
    index.add_pack(pack(2), entries(9, 2))
    assert not index.has(block(3))
    found = index.locate(block(2))
    assert found is not None
    assert found.pack.id == pack(1).id
    sums = index.statistics()
    assert (sums.blocks, sums.block_bytes, sums.packs, sums.stored_bytes) == (4, 40, 2, 3400)


def test_an_empty_index_has_sums(index: BlockIndex) -> None:
    sums = index.statistics()
    assert (sums.blocks, sums.block_bytes, sums.packs, sums.stored_bytes, sums.packs_to_repair) == (0,) * 5


def test_repairs_are_queued_in_order_and_end(index: BlockIndex) -> None:
    for number in range(4):
        index.add_pack(pack(number, missing=4 if number == 2 else 0), entries(number))
    index.want_repair(pack(3).id, missing=1)
    index.want_repair(pack(3).id, missing=2)
    index.want_repair(pack(1).id)
    assert index.packs_to_repair(9) == [pack(1), pack(2, 4), pack(3, 3)]
    assert index.packs_to_repair(1, skip=1) == [pack(2, 4)]
    assert index.statistics().packs_to_repair == 3
    index.set_missing(pack(1).id, 0)
    index.set_missing(pack(3).id, 2)
    assert index.packs_to_repair(9) == [pack(2, 4), pack(3, 2)]


def test_nodes_may_change(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1))
    index.set_nodes(pack(1).id, ("a", "b", "c"))
    found = index.pack(pack(1).id)
    assert found is not None
    assert found.nodes == ("a", "b", "c")


def test_clear_forgets_all(index: BlockIndex) -> None:
    index.add_pack(pack(1), entries(1))
    index.clear()
    assert not index.has(block(1))
    assert index.pack_ids() == set()


def test_a_pack_is_added_whole_or_not_at_all(index: BlockIndex) -> None:
    with pytest.raises(TypeError):
        index.add_pack(pack(1), [*entries(1), PackEntry(object(), 0, 0)])  # type: ignore[arg-type]
    assert index.pack_ids() == set()
    assert not index.has(block(1))


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    index = BlockIndex(path, DRIVE)
    index.add_pack(pack(1, missing=2), entries(1))
    index.close()
    index.close()
    index = BlockIndex(path, DRIVE)
    assert index.locate(block(1)) == BlockLocation(pack(1, missing=2), 40, 10)
    index.close()


def test_the_index_of_another_drive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blocks.db"
    BlockIndex(str(path), DRIVE).close()
    before = path.read_bytes()
    with pytest.raises(FormatError, match="another drive"):
        BlockIndex(str(path), bytes(16))
    assert path.read_bytes() == before


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    other = apsw.Connection(path)
    other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(FormatError, match="no block index of version 3"):
        BlockIndex(path, DRIVE)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "blocks.db")
    BlockIndex(path, DRIVE).close()
    at_rest.unseal(path)
    database = apsw.Connection(path)
    database.execute("PRAGMA user_version = 4")
    database.close()
    with pytest.raises(FormatError, match="version 3"):
        BlockIndex(path, DRIVE)


def test_damage_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "blocks.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptError, match=r"remove blocks\.db"):
        BlockIndex(str(path), DRIVE)


def test_a_full_disk_is_told_as_such(index: BlockIndex) -> None:
    index._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(NoSpaceError):
        index.add_pack(pack(1), entries(*range(2000)))
    assert index.pack_ids() == set()


def test_a_missing_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(TransientError):
        BlockIndex(str(tmp_path / "nowhere" / "blocks.db"), DRIVE)
