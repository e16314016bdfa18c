"""backend.blocks.block_store and what it is made of, on directory nodes that fail in every way that FAULTS
lists."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.blocks.block_store import PackedBlockStore
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.errors import (
    DriveError,
    NodeError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
    UnavailableError,
    UsageError,
)
from backend.failpoints import OF_PROCESS
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity, initialise_directory_node
from backend.packs.pack_codec import PackCodec
from backend.upstream import BlockId, SealedBlock
from tests.faulty_node import Fault, FaultyNode
from tests.writers import FreeWriter

DRIVE, KEY = bytes(range(16)), bytes(32)
AWAY = TransientError("away")


def blocks(count: int, size: int = 3000, seed: int = 1) -> list[SealedBlock]:
    source = random.Random(seed)
    return [SealedBlock(BlockId(source.randbytes(32)), source.randbytes(size)) for _ in range(count)]


@dataclass
class Rig:
    """A block store on directory nodes below `path`, each behind a FaultyNode."""

    path: Path
    nodes: dict[str, FaultyNode]
    index: SqliteBlockIndex
    store: PackedBlockStore
    writer: FreeWriter
    codec: PackCodec

    def fragments(self) -> list[Path]:
        return sorted(self.path.glob("node*/packs/*/[!.]*"))

    def packs(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for fragment in self.fragments():
            found.setdefault(fragment.stem, []).append(fragment)
        return found

    async def write(self, sealed: list[SealedBlock], packs: int = 3) -> None:
        for start in range(packs):
            await self.store.put_blocks(sealed[start::packs])
            await self.store.flush()
        await self.settle()

    def holders(self, block: SealedBlock, *fragments: int) -> list[str]:
        """The nodes that keep those fragments of the block's pack."""
        location = self.index.locate(block.id)
        assert location is not None
        return [location.pack.nodes[fragment] for fragment in fragments]

    async def settle(self) -> None:
        """Until every fragment of every pack is on its node."""
        while self.index.packs.to_repair(1):
            await trio.sleep(0.001)

    async def check(self, sealed: list[SealedBlock]) -> None:
        for block in sealed:
            assert await self.store.get_block(block.id) == block.data


def build(path: Path, profile: str = "4+2", count: int = 6, index: str = ":memory:", **options: Any) -> Rig:
    nodes: dict[str, FaultyNode] = {}
    for number in range(count):
        name = f"node{number}"
        initialise_directory_node(str(path / name), DRIVE, name, name)
        nodes[name] = FaultyNode(DirectoryNode(str(path / name), NodeIdentity(name, DRIVE, name)))
    cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in nodes))
    database = SqliteBlockIndex(index, DRIVE, Profile.parse(profile).m)
    writer = FreeWriter()
    codec = PackCodec(code_for(Profile.parse(profile)), DRIVE, KEY)
    store = PackedBlockStore(nodes, codec, cluster, database, writer, **options)
    return Rig(path, nodes, database, store, writer, codec)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.store.run)
        yield rig
        nursery.cancel_scope.cancel()
    await rig.store.close()


@asynccontextmanager
async def reopened(path: Path) -> AsyncIterator[Rig]:
    """A new store with an empty index, on the nodes that are still there under `path`."""
    gone = [f"node{number}" for number in range(6) if not (path / f"node{number}").exists()]
    rig = build(path)
    for name in gone:
        shutil.rmtree(path / name)
    yield rig
    await rig.store.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(build(tmp_path, repair_wait=0.02)) as rig:
        yield rig


async def test_what_is_flushed_is_read_again(rig: Rig) -> None:
    sealed = blocks(40)
    assert await rig.store.missing([block.id for block in sealed]) == {block.id for block in sealed}
    await rig.write(sealed)
    await rig.check(sealed)
    assert await rig.store.missing([block.id for block in sealed]) == set()
    status = await rig.store.status()
    assert (status.blocks, status.block_bytes, status.packs) == (40, 120_000, 3)
    assert (status.pending_bytes, status.packs_to_repair) == (0, 0)
    assert status.stored_bytes == sum(fragment.stat().st_size for fragment in rig.fragments())
    assert [node.state for node in status.nodes] == ["ok"] * 6


async def test_random_data_costs_little_more_than_parity(rig: Rig) -> None:
    sealed = blocks(16, 1_000_000)
    await rig.write(sealed, packs=2)
    assert sum(fragment.stat().st_size for fragment in rig.fragments()) < 1.502 * 16_000_000


async def test_a_block_in_the_buffer_can_be_read(tmp_path: Path) -> None:
    rig, sealed = build(tmp_path), blocks(3)
    await rig.store.put_blocks(sealed)
    await rig.check(sealed)
    assert await rig.store.get_block_again(sealed[0].id) == sealed[0].data
    assert await rig.store.missing([block.id for block in sealed]) == set()
    assert (await rig.store.status()).pending_bytes == 9000


async def test_the_linger_closes_a_pack(tmp_path: Path) -> None:
    async with running(build(tmp_path, linger=0.01)) as rig:
        await rig.store.put_blocks(blocks(2))
        with trio.fail_after(5):
            while (await rig.store.status()).pending_bytes:
                await trio.sleep(0.001)
        assert len(rig.packs()) == 1


async def test_a_full_pack_is_stored_without_waiting(tmp_path: Path) -> None:
    async with running(build(tmp_path, linger=1e9, target=10_000)) as rig:
        await rig.store.put_blocks(blocks(4))
        with trio.fail_after(5):
            while (await rig.store.status()).pending_bytes:
                await trio.sleep(0.001)


async def test_a_block_put_many_times_at_once_is_stored_once(rig: Rig) -> None:
    sealed = blocks(5)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(rig.store.put_blocks, sealed)
    await rig.store.flush()
    await rig.store.put_blocks(sealed)
    await rig.store.flush()
    status = await rig.store.status()
    assert (status.blocks, status.packs) == (5, 1)


async def test_the_buffer_is_bounded(tmp_path: Path) -> None:
    rig = build(tmp_path, target=10_000, capacity=50_000)
    sealed, most = blocks(100, 5000), 0
    for node in rig.nodes.values():
        node.faults = [Fault(("put",), delay=0.005)]

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await rig.store.status()).pending_bytes)
            await trio.sleep(0)

    async with running(rig), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await rig.store.put_blocks(sealed)
        await rig.store.flush()
        nursery.cancel_scope.cancel()
    assert 25_000 < most <= 50_000


@pytest.mark.logs_warnings
async def test_who_waits_for_room_is_told_that_nothing_can_be_stored(tmp_path: Path) -> None:
    rig = build(tmp_path, target=10_000, capacity=50_000)
    for node in rig.nodes.values():
        node.faults = [Fault(("put",), error=NoSpaceError("the node is full"))]
    sealed = blocks(100, 5000)
    async with running(rig):
        with pytest.raises((NoSpaceError, UnavailableError)), trio.fail_after(20):
            await rig.store.put_blocks(sealed)
        for node in rig.nodes.values():
            node.faults = []
        with suppress(NoSpaceError, UnavailableError):  # of a try that began while the nodes were full
            await rig.store.flush()
        await rig.store.flush()
        await rig.store.put_blocks(sealed)
        await rig.store.flush()
        await rig.check(sealed)


async def test_a_block_larger_than_the_buffer_is_let_in(tmp_path: Path) -> None:
    async with running(build(tmp_path, capacity=1000)) as rig:
        sealed = blocks(3)
        await rig.store.put_blocks(sealed)
        await rig.store.flush()
        await rig.check(sealed)


async def test_an_unknown_block_is_not_found(rig: Rig) -> None:
    for call in (rig.store.get_block, rig.store.get_block_again):
        with pytest.raises(NotFoundError):
            await call(BlockId(bytes(32)))


async def test_nothing_is_shown_to_a_node(rig: Rig) -> None:
    sealed = blocks(5)
    await rig.write(sealed, packs=1)
    for fragment in rig.fragments():
        data = fragment.read_bytes()
        assert not any(bytes(block.id) in data or block.id.hex().encode() in data for block in sealed)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("gone", list(combinations(range(6), 2)))
async def test_any_two_nodes_may_be_gone(rig: Rig, gone: tuple[int, int], tmp_path: Path) -> None:
    sealed = blocks(12)
    await rig.write(sealed)
    for number in gone:
        shutil.rmtree(tmp_path / f"node{number}")
    await rig.check(sealed)
    async with reopened(tmp_path) as other:
        report = await other.store.reconcile()
        assert (report.added, report.away) == (3, [f"node{number}" for number in gone])
        await other.check(sealed)


async def test_three_nodes_gone_are_named_and_come_back(rig: Rig, tmp_path: Path) -> None:
    sealed = blocks(12)
    await rig.write(sealed)
    for number in (1, 3, 4):
        (tmp_path / f"node{number}").rename(tmp_path / f"away{number}")
    read = 0
    for block in sealed:
        with pytest.raises(UnavailableError, match=r"node1: .* is missing") as caught:
            await rig.store.get_block_again(block.id)
        assert sorted(caught.value.nodes) == ["node1", "node3", "node4"]
        with suppress(UnavailableError):
            assert await rig.store.get_block(block.id) == block.data
            read += 1
    assert read < len(sealed)
    status = await rig.store.status()
    assert [node.state == "ok" for node in status.nodes] == [True, False, True, False, False, True]
    assert (status.takers, status.write_quorum) == (3, 5)
    for number in (1, 3, 4):
        (tmp_path / f"away{number}").rename(tmp_path / f"node{number}")
    await rig.check(sealed)


async def test_three_nodes_gone_at_the_start(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = blocks(3)
    await rig.write(sealed, packs=1)
    for number in (0, 1, 2):
        (tmp_path / f"node{number}").rename(tmp_path / f"away{number}")
    async with reopened(tmp_path) as other:
        report = await other.store.reconcile()
        assert (report.added, report.incomplete) == (0, 1)
        with pytest.raises(UnavailableError) as caught:
            await other.store.get_block(sealed[0].id)
        assert caught.value.nodes == ("node0", "node1", "node2")
        (tmp_path / "away0").rename(tmp_path / "node0")
        monkeypatch.setattr("backend.blocks.index_upkeep.AGAIN", 0.0)
        await other.check(sealed)


async def test_a_node_that_comes_back_brings_its_packs(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.blocks.index_upkeep.AGAIN", 0.01)
    sealed = blocks(3)
    await rig.write(sealed, packs=1)
    for number in (0, 1, 2):
        (tmp_path / f"node{number}").rename(tmp_path / f"away{number}")
    async with reopened(tmp_path) as other, trio.open_nursery() as nursery:
        await other.store.reconcile()
        await nursery.start(other.store.run)
        for number in (0, 1, 2):
            (tmp_path / f"away{number}").rename(tmp_path / f"node{number}")
        with trio.fail_after(10):
            while await other.store.missing([block.id for block in sealed]):
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


def corrupt(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 3] ^= 1
    elif how == "truncate":
        del data[len(data) // 2 :]
    elif how == "extend":
        data += b"more"
    elif how == "footer":
        data[-60] ^= 1
    else:
        data.clear()
    path.write_bytes(data)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("how", ["flip", "truncate", "extend", "footer", "empty"])
async def test_two_bad_fragments_of_every_pack_are_outlived_and_repaired(rig: Rig, how: str) -> None:
    sealed = blocks(12)
    await rig.write(sealed)
    before = {fragment: fragment.read_bytes() for fragment in rig.fragments()}
    for pack in rig.packs().values():
        for fragment in random.Random(3).sample(pack, 2):
            corrupt(fragment, how)
    for block in sealed:
        assert await rig.store.get_block_again(block.id) == block.data
    with trio.fail_after(20):
        await rig.settle()
    assert {fragment: fragment.read_bytes() for fragment in rig.fragments()} == before
    await rig.check(sealed)


@pytest.mark.logs_warnings
async def test_three_bad_fragments_are_never_wrong_bytes(rig: Rig) -> None:
    sealed = blocks(4)
    await rig.write(sealed, packs=1)
    for fragment in rig.fragments()[:3]:
        corrupt(fragment, "flip")
    for block in sealed:
        with pytest.raises(UnavailableError, match="checksum mismatch"):
            await rig.store.get_block_again(block.id)


@pytest.mark.logs_warnings
async def test_short_fragments_are_noticed_by_a_plain_read(rig: Rig) -> None:
    sealed = blocks(12)
    await rig.write(sealed)
    for node in ("node2", "node5"):
        for fragment in rig.fragments():
            if node in str(fragment):
                corrupt(fragment, "empty")
    await rig.check(sealed)


@pytest.mark.logs_warnings
async def test_a_plain_read_that_misses_a_fragment_has_it_repaired(rig: Rig) -> None:
    sealed = blocks(12)
    await rig.write(sealed, packs=1)
    next(path for path in rig.fragments() if path.suffix == ".0").unlink()
    await rig.check(sealed)
    await rig.settle()
    assert len(rig.fragments()) == 6


@pytest.mark.logs_warnings
async def test_fragments_swapped_between_packs_are_recognised(rig: Rig) -> None:
    sealed = blocks(8)
    await rig.write(sealed, packs=2)
    first, second = rig.packs().values()
    before = {fragment: fragment.read_bytes() for fragment in rig.fragments()}
    for suffix in (".0", ".4"):
        one, other = (next(path for path in pack if path.suffix == suffix) for pack in (first, second))
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    for block in sealed:
        assert await rig.store.get_block_again(block.id) == block.data
    with trio.fail_after(20):
        await rig.settle()
    assert {fragment: fragment.read_bytes() for fragment in rig.fragments()} == before


@pytest.mark.logs_warnings
async def test_fragments_swapped_within_a_pack_are_recognised(rig: Rig) -> None:
    sealed = blocks(4)
    await rig.write(sealed, packs=1)
    one, other = (path for path in rig.fragments() if path.suffix in (".0", ".5"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for block in sealed:
        assert await rig.store.get_block_again(block.id) == block.data


@pytest.mark.parametrize("profile", ["4+2", "2+1", "copies:1", "copies:3"])
async def test_the_index_is_rebuilt_from_packs_alone(tmp_path: Path, profile: str) -> None:
    sealed = blocks(30)
    async with running(build(tmp_path, profile)) as rig:
        await rig.write(sealed, packs=5)
        before = {block.id: rig.index.locate(block.id) for block in sealed}
        sums = rig.index.packs.statistics(0, 99)
    async with running(build(tmp_path, profile)) as again:
        steps: list[tuple[int, int]] = []
        report = await again.store.reconcile(lambda done, total: steps.append((done, total)))
        assert (report.added, report.away, report.unreadable, report.incomplete) == (5, [], [], 0)
        assert steps == [(done, 5) for done in range(1, 6)]
        assert {block.id: again.index.locate(block.id) for block in sealed} == before
        assert again.index.packs.statistics(0, 99) == sums
        await again.check(sealed)


@pytest.mark.logs_warnings
async def test_the_index_is_rebuilt_from_bad_fragments(rig: Rig, tmp_path: Path) -> None:
    sealed = blocks(600, 30)
    await rig.write(sealed)
    for pack in rig.packs().values():
        for fragment in random.Random(5).sample(pack, 2):
            corrupt(fragment, random.Random(str(fragment)).choice(["flip", "truncate", "empty", "footer"]))
    async with reopened(tmp_path) as other:
        assert (await other.store.reconcile()).added == 3
        for block in sealed[::40]:
            assert await other.store.get_block_again(block.id) == block.data


@pytest.mark.logs_warnings
async def test_a_pack_whose_index_is_no_longer_there_is_reported(rig: Rig, tmp_path: Path) -> None:
    await rig.write(blocks(3), packs=1)
    (pack_id,) = rig.packs()
    for fragment in rig.fragments():
        if fragment.suffix in (".3", ".4", ".5"):
            corrupt(fragment, "empty")
    async with reopened(tmp_path) as other:
        report = await other.store.reconcile()
        assert (report.added, report.unreadable) == (0, [pack_id])


async def test_a_node_that_hangs_holds_no_index_up(rig: Rig, tmp_path: Path) -> None:
    sealed = blocks(30)
    await rig.write(sealed, packs=30)
    async with reopened(tmp_path) as other:
        other.nodes["node2"].faults.append(Fault(("state", "get"), until=trio.Event()))
        with trio.fail_after(20):
            assert (await other.store.reconcile()).added == 30
        await other.check(sealed)


async def test_nodes_that_all_are_slow_are_waited_for(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.blocks.index_reconciliation.FOOTER_PATIENCE", 0.01)
    sealed = blocks(2)
    await rig.write(sealed, packs=2)
    async with reopened(tmp_path) as other:
        for node in other.nodes.values():
            node.faults.append(Fault(("state",), delay=0.05))
        assert (await other.store.reconcile()).added == 2
        await other.check(sealed)


async def test_reconciling_adds_only_what_the_index_lacks(rig: Rig, tmp_path: Path) -> None:
    sealed = blocks(6)
    await rig.write(sealed[:3], packs=1)
    async with reopened(tmp_path) as other:
        await other.store.reconcile()
        await rig.write(sealed[3:], packs=1)
        assert (await other.store.reconcile()).added == 1
        assert (await other.store.reconcile()).added == 0
        await other.check(sealed)


async def test_a_pack_that_no_node_lists_is_kept_and_wanted_for_repair(rig: Rig) -> None:
    sealed = blocks(3)
    await rig.write(sealed, packs=1)
    for fragment in rig.fragments():
        fragment.unlink()
    report = await rig.store.reconcile()
    assert report.marked == 1
    assert rig.index.packs.statistics(0, 99).packs_to_repair == 1
    assert rig.index.locate(sealed[0].id) is not None
    # Nothing new relies on it: a write of the same bytes stores them again.
    assert await rig.store.missing([block.id for block in sealed]) == {block.id for block in sealed}


async def test_a_fragment_on_another_node_is_found_there(rig: Rig, tmp_path: Path) -> None:
    sealed = blocks(3)
    await rig.write(sealed, packs=1)
    fragments = rig.fragments()
    (tmp_path / "node0/x").mkdir()
    source = next(path for path in fragments if "node3" in str(path))
    target = tmp_path / "node4" / source.relative_to(tmp_path / "node3")
    source.rename(target)
    report = await rig.store.reconcile()
    assert report.marked == 0
    await rig.check(sealed)
    assert not rig.index.packs.to_repair(1)


async def test_a_fragment_that_arrives_while_nodes_are_listed_is_not_missing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """node1 is listed, then the fragment arrives there, then node2 is listed."""
    listed, arrival, settled = trio.Event(), trio.Event(), trio.Event()
    rig.nodes["node1"].faults = [Fault(("put",), until=arrival)]
    rig.nodes["node2"].faults = [Fault(("keys",), until=settled)]
    list_node1 = rig.nodes["node1"].keys

    async def keys_of_node1(prefix: str, after: str, limit: int) -> list[str]:
        found = await list_node1(prefix, after, limit)
        listed.set()
        return found

    monkeypatch.setattr(rig.nodes["node1"], "keys", keys_of_node1)
    await rig.store.put_blocks(blocks(3))
    await rig.store.flush()

    async def arrive_while_listing() -> None:
        await listed.wait()
        arrival.set()
        await rig.settle()
        settled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive_while_listing)
        report = await rig.store.reconcile()
    assert len(rig.fragments()) == 6
    assert report.marked == 0


async def test_reconciling_while_writing_marks_nothing(tmp_path: Path) -> None:
    async with running(build(tmp_path, target=9000)) as rig:
        sealed = blocks(60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.store.put_blocks, sealed)
            for _ in range(5):
                report = await rig.store.reconcile()
                assert (report.marked, report.unreadable) == (0, [])
        await rig.store.flush()
        await rig.settle()
        assert (await rig.store.status()).blocks == 60


@pytest.mark.parametrize(
    "error",
    [
        AWAY,
        NodeError("gone", "node2"),
        NoSpaceError("full"),
        ReadOnlyError("ro"),
    ],
)
async def test_one_failing_node_is_within_the_quorum_and_repaired_later(rig: Rig, error: DriveError) -> None:
    sealed = blocks(12)
    rig.nodes["node2"].faults = [Fault(("put", "check"), error=error)]
    for start in range(3):
        await rig.store.put_blocks(sealed[start::3])
        await rig.store.flush()
    assert await rig.store.repairs.repair_all() == 0
    assert (await rig.store.status()).packs_to_repair == 3
    assert len(rig.fragments()) == 15
    await rig.check(sealed)
    rig.nodes["node2"].faults = []
    await rig.settle()
    assert len(rig.fragments()) == 18
    for name in ("node0", "node1"):
        shutil.rmtree(rig.path / name)
    await rig.check(sealed)


def placed(rig: Rig) -> dict[str, dict[int, str]]:
    """On which node each fragment of each pack lies, by the files."""
    found: dict[str, dict[int, str]] = {}
    for path in rig.fragments():
        found.setdefault(path.stem, {})[int(path.suffix[1:])] = path.relative_to(rig.path).parts[0]
    return found


def known(rig: Rig) -> dict[str, dict[int, str]]:
    """The same by the index, of fragments that it does not call missing."""
    return {
        pack.id.hex(): {at: name for at, name in enumerate(pack.nodes) if not pack.missing >> at & 1}
        for pack in rig.index.packs.after(b"", 1000)
    }


@pytest.mark.parametrize("error", [AWAY, NoSpaceError("full"), ReadOnlyError("ro")])
async def test_a_fragment_that_its_node_refuses_goes_to_a_spare_node(
    tmp_path: Path, error: DriveError
) -> None:
    sealed = blocks(24)
    OF_PROCESS.arm("pack.before-stand-in")
    async with running(build(tmp_path, count=8)) as rig:
        for name in ("node2", "node5"):
            rig.nodes[name].faults = [Fault(("put",), error=error)]
        await rig.write(sealed, packs=8)
        assert OF_PROCESS.hits["pack.before-stand-in"]
        found = placed(rig)
        assert known(rig) == found
        for nodes in found.values():
            assert len(nodes) == len(set(nodes.values())) == 6
        assert not {"node2", "node5"} & {name for nodes in found.values() for name in nodes.values()}
        assert (await rig.store.status()).packs_to_repair == 0
    again = build(tmp_path, count=8)
    await again.store.reconcile()
    assert known(again) == found
    for name in ("node0", "node1"):
        shutil.rmtree(tmp_path / name)
    await again.check(sealed)
    await again.store.close()


async def test_a_stand_in_that_fails_too_is_left_to_repair(tmp_path: Path) -> None:
    async with running(build(tmp_path, count=8)) as rig:
        nodes = rig.nodes
        for node in nodes.values():
            node.faults = [Fault(("put",), r"\.3$", error=AWAY)]
        OF_PROCESS.arm("pack.before-stand-in", "eio", 1)
        await rig.store.put_blocks(blocks(4))
        await rig.store.flush()
        assert OF_PROCESS.hits["pack.before-stand-in"] == 2
        assert (await rig.store.status()).packs_to_repair == 1
        assert len(rig.fragments()) == 5
        await rig.check(blocks(4))


async def test_a_fragment_is_left_to_repair_when_no_spare_node_takes_it(tmp_path: Path) -> None:
    async with running(build(tmp_path, count=7, repair_wait=0.02)) as rig:
        for name in ("node2", "node5"):
            rig.nodes[name].faults = [Fault(("put", "check"), error=AWAY)]
        await rig.store.put_blocks(blocks(4))
        await rig.store.flush()
        assert len(rig.fragments()) == 5
        assert (await rig.store.status()).packs_to_repair == 1
        for name in ("node2", "node5"):
            rig.nodes[name].faults = []
        await rig.settle()
        assert known(rig) == placed(rig)
        assert [len(set(nodes.values())) for nodes in placed(rig).values()] == [6]


async def test_what_was_on_a_node_that_is_taken_out_belongs_on_a_free_one(tmp_path: Path) -> None:
    """A dead node is taken out of the map: what it had is rebuilt on nodes that have none of the pack."""
    sealed, index = blocks(24), str(tmp_path / "index.db")
    async with running(build(tmp_path, count=8, index=index)) as rig:
        await rig.write(sealed, packs=8)
    shutil.rmtree(tmp_path / "node7")
    for cached in (index, ":memory:"):
        async with running(build(tmp_path, count=7, index=cached, repair_wait=0.02)) as rig:
            await rig.store.reconcile()
            await rig.settle()
            found = placed(rig)
            assert known(rig) == found
            assert all(len(nodes) == len(set(nodes.values())) == 6 for nodes in found.values())
            await rig.check(sealed)


async def test_fragments_that_moved_are_found_while_a_node_is_away(tmp_path: Path) -> None:
    """Fragments need not lie where placement puts them: those that no node lists may be on the one that
    is away, and none is rebuilt onto a node that has another fragment of the pack."""
    sealed = blocks(12)
    async with running(build(tmp_path)) as rig:
        await rig.write(sealed, packs=2)
        for pack, nodes in placed(rig).items():
            paths = {at: tmp_path / name / "packs" / pack[:2] / f"{pack}.{at}" for at, name in nodes.items()}
            held = {at: path.read_bytes() for at, path in paths.items()}
            for at, path in paths.items():
                path.unlink()
                place = tmp_path / nodes[(at + 1) % 6] / "packs" / pack[:2] / path.name
                place.write_bytes(held[at])
        turned = placed(rig)
    (tmp_path / "node3").rename(tmp_path / "gone")
    rig = build(tmp_path)
    shutil.rmtree(tmp_path / "node3")
    await rig.store.reconcile()
    assert known(rig) == turned
    await rig.check(sealed)
    assert (await rig.store.status()).packs_to_repair == 0
    await rig.store.close()


@pytest.mark.logs_warnings
async def test_one_call_repairs_all_that_can_be_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: several packs are repaired at a time, and each counts once."""
    monkeypatch.setattr("backend.blocks.repair_queue._BATCH", 4)
    async with running(build(tmp_path)) as rig:
        await rig.write(blocks(22), packs=22)
    for path in tmp_path.glob("node1/packs/*/*"):
        path.unlink()
    noted: list[tuple[int, float]] = []
    rig = build(tmp_path, note_repair=lambda *what: noted.append(what))
    await rig.store.reconcile()
    for path in sorted(tmp_path.glob(f"node*/packs/*/{rig.index.packs.to_repair(9)[8].id.hex()}.*"))[:2]:
        path.unlink()
    assert await rig.store.repairs.repair_all() == 21
    assert (await rig.store.status()).packs_to_repair == 1
    written = [path.stat().st_size for path in tmp_path.glob("node1/packs/*/*")]
    assert [size for size, _ in noted] == [sum(written)]
    await rig.store.close()


@pytest.mark.logs_warnings
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AWAY, UnavailableError),
        (NoSpaceError("full"), NoSpaceError),
        (ReadOnlyError("ro"), ReadOnlyError),
    ],
)
async def test_below_the_quorum_flush_raises_and_can_be_called_again(
    rig: Rig, error: DriveError, expected: type[DriveError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.blocks.block_buffer.FIRST_WAIT", 1e9)
    sealed = blocks(12)
    for name in ("node2", "node3"):
        rig.nodes[name].faults = [Fault(("put",), error=error)]
    await rig.store.put_blocks(sealed)
    for _ in range(3):
        with pytest.raises(expected, match=r"node2: .*node3: ") as caught:
            await rig.store.flush()
        if isinstance(caught.value, UnavailableError):
            assert caught.value.nodes == ("node2", "node3")
    assert (await rig.store.status()).blocks == 0
    await rig.check(sealed)
    for name in ("node2", "node3"):
        rig.nodes[name].faults = []
    await rig.store.flush()
    assert (await rig.store.status()).blocks == 12
    assert len(rig.packs()) == 1
    await rig.settle()
    for name in ("node2", "node4"):
        shutil.rmtree(rig.path / name)
    await rig.check(sealed)


@pytest.mark.logs_warnings
async def test_flush_asks_for_a_try_of_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it told the failure of the try that was under way, of nodes that were mended by then."""
    monkeypatch.setattr("backend.blocks.block_buffer.FIRST_WAIT", 1e9)
    gate, sealed = trio.Event(), blocks(3)
    faults = [Fault(("put",), until=gate, error=AWAY) for _ in range(2)]
    for name, fault in zip(("node2", "node3"), faults, strict=True):
        rig.nodes[name].faults = [fault]
    await rig.store.put_blocks(sealed)
    with trio.fail_after(20):
        while not all(fault.hits for fault in faults):
            await trio.sleep(0.001)
        for name in ("node2", "node3"):
            rig.nodes[name].faults = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.store.flush)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    await rig.check(sealed)


@pytest.mark.logs_warnings
async def test_storing_is_tried_again_without_being_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.blocks.block_buffer.FIRST_WAIT", 0.001)
    for name in ("node2", "node3"):
        rig.nodes[name].faults = [Fault(("put",), times=4, error=AWAY)]
    await rig.store.put_blocks(blocks(3))
    with trio.fail_after(10):
        while (await rig.store.status()).pending_bytes:
            await trio.sleep(0.001)
    assert len(rig.packs()) == 1


async def test_a_slow_node_does_not_hold_up_a_flush(rig: Rig) -> None:
    slow = trio.Event()
    rig.nodes["node1"].faults = [Fault(("put",), until=slow)]
    await rig.store.put_blocks(blocks(3))
    await rig.store.flush()
    assert len(rig.fragments()) == 5
    slow.set()
    await rig.settle()
    assert len(rig.fragments()) == 6


async def test_a_hanging_node_does_not_hold_up_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.blocks.block_store.STRAGGLER_PATIENCE", 0.01)
    rig, sealed = build(tmp_path, target=3000), blocks(60)
    rig.nodes["node1"].faults = [Fault(("put", "check"), delay=1e9)]
    async with running(rig):
        with trio.fail_after(20):
            await rig.store.put_blocks(sealed)
            await rig.store.flush()
        assert sum(call == "put" for call, _ in rig.nodes["node1"].calls) <= 16
        await rig.check(sealed)


async def test_reading_is_hedged_against_a_slow_node(tmp_path: Path) -> None:
    async with running(build(tmp_path, hedge_after=0.02)) as rig:
        sealed = blocks(12)
        await rig.write(sealed)
        slow = Fault(("get",), delay=1e9)
        for name in rig.holders(sealed[0], 0, 2):
            rig.nodes[name].faults = [slow]
        with trio.fail_after(20):
            await rig.check(sealed)
        assert slow.hits > 0
        assert not rig.index.packs.to_repair(1)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(("get",), error=AWAY),
        Fault(("get",), short_by=1),
    ],
    ids=["error", "short"],
)
@pytest.mark.logs_warnings
async def test_reading_outlives_two_failing_nodes(rig: Rig, fault: Fault) -> None:
    sealed = blocks(12)
    await rig.write(sealed)
    for name in rig.holders(sealed[0], 0, 2):
        rig.nodes[name].faults = [fault]
    await rig.check(sealed)
    assert fault.hits > 0


async def test_a_plain_read_asks_for_the_range_only(rig: Rig) -> None:
    sealed = blocks(8, 50)
    await rig.write(sealed, packs=1)
    for node in rig.nodes.values():
        node.calls.clear()
    await rig.store.get_block(sealed[0].id)
    assert sum(call == "get" for node in rig.nodes.values() for call, _ in node.calls) == 1


async def test_many_degraded_reads_of_one_pack_decode_it_once(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = blocks(30)
    await rig.write(sealed, packs=1)
    for name in rig.holders(sealed[0], 0, 1):
        shutil.rmtree(tmp_path / name)
    code = rig.codec.code
    decode, decoded = code.decode, list[int]()

    def counting(fragments: Mapping[int, bytes], size: int) -> bytes:
        decoded.append(size)
        return decode(fragments, size)

    monkeypatch.setattr(code, "decode", counting)
    async with trio.open_nursery() as nursery:
        for block in sealed:
            nursery.start_soon(rig.store.get_block, block.id)
    assert len(decoded) == 1


@pytest.mark.logs_warnings
async def test_a_write_that_was_lost_is_found_by_a_read_and_repaired(rig: Rig) -> None:
    rig.nodes["node1"].faults = [Fault(("put",), lost=True)]
    sealed = blocks(12)
    await rig.write(sealed)
    assert len(rig.fragments()) == 15
    rig.nodes["node1"].faults = []
    for block in sealed:
        assert await rig.store.get_block_again(block.id) == block.data
    await rig.settle()
    assert len(rig.fragments()) == 18


async def test_a_repair_that_is_interrupted_converges(rig: Rig) -> None:
    sealed = blocks(6)
    await rig.write(sealed, packs=2)
    for pack in rig.packs().values():
        for fragment in pack[:2]:
            fragment.unlink()
    OF_PROCESS.arm("repair.before-fragment", "eio")
    await rig.store.reconcile()
    with trio.fail_after(10):
        while not OF_PROCESS.hits["repair.before-fragment"]:
            await trio.sleep(0.001)
    assert len(rig.fragments()) == 8
    OF_PROCESS.disarm_all()
    await rig.settle()
    assert len(rig.fragments()) == 12


@pytest.mark.logs_warnings
@pytest.mark.parametrize("place", ["blocks.after-quorum", "blocks.after-index"])
async def test_a_failure_between_quorum_and_answer_stores_once(rig: Rig, place: str) -> None:
    sealed = blocks(3)
    await rig.store.put_blocks(sealed)
    OF_PROCESS.arm(place, "eio")
    with pytest.raises(TransientError, match=place):
        await rig.store.flush()
    OF_PROCESS.disarm_all()
    await rig.store.flush()
    assert (await rig.store.status()).packs == 1
    assert len(rig.packs()) == 1
    await rig.check(sealed)


@pytest.mark.logs_warnings
async def test_a_failure_before_fragments_is_a_failed_try(rig: Rig) -> None:
    await rig.store.put_blocks(blocks(3))
    OF_PROCESS.arm("pack.before-fragment", "enospc", skip=4)
    with pytest.raises(UnavailableError):
        await rig.store.flush()
    assert OF_PROCESS.hits["pack.before-fragment"] >= 6
    OF_PROCESS.disarm_all()
    await rig.store.flush()


async def test_what_a_kill_left_between_quorum_and_index_is_found_again(tmp_path: Path) -> None:
    sealed = blocks(3)
    async with running(build(tmp_path)) as rig:
        await rig.write(sealed, packs=1)
    async with reopened(tmp_path) as other:
        assert await other.store.missing([block.id for block in sealed]) != set()
        await other.store.reconcile()
        assert await other.store.missing([block.id for block in sealed]) == set()


async def test_an_index_on_disk_serves_the_next_run(tmp_path: Path) -> None:
    sealed, path = blocks(3), str(tmp_path / "blocks.db")
    async with running(build(tmp_path, index=path)) as rig:
        await rig.write(sealed, packs=1)
    other = build(tmp_path, index=path)
    await other.check(sealed)
    await other.store.close()
    await other.store.close()


async def test_copies_survive_all_but_one(tmp_path: Path) -> None:
    async with running(build(tmp_path, "copies:3", count=4)) as rig:
        sealed = blocks(6)
        await rig.write(sealed, packs=1)
        holders = {path.parts[len(tmp_path.parts)] for path in rig.fragments()}
        for name in sorted(holders)[1:]:
            shutil.rmtree(tmp_path / name)
        await rig.check(sealed)


def test_a_map_with_unknown_nodes_is_refused(tmp_path: Path) -> None:
    rig = build(tmp_path)
    cluster = ClusterMap(1, (ClusterNode("elsewhere", "z"),))
    with pytest.raises(UsageError, match="elsewhere"):
        PackedBlockStore(
            rig.nodes, PackCodec(code_for(Profile.parse("4+2")), DRIVE, KEY), cluster, rig.index, rig.writer
        )
