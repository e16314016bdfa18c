"""Snapshots as blocks and a sealed root."""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import pytest
import trio

from backend.errors import CorruptError, TransientError, UnknownEpochError
from backend.keys.key_ring import KeyRing
from backend.upstream import Head
from cache.blocks.block_cache import BlockCache
from cache.blocks.block_codec import BlockCodec
from cache.blocks.chunking import Chunker
from cache.publish.snapshot_store import ROOT_NAME, VERSION, SnapshotStore
from tests.key_rings import add_epochs, ring_of
from tests.memory_upstream import MemoryUpstream

HASH_KEY = b"h" * 32
RING = ring_of()
CHUNKER = Chunker(b"c" * 32)
CODEC = BlockCodec(b"i" * 32, RING)
DATA = random.Random(3).randbytes(20 << 20)


def make(upstream: MemoryUpstream, ring: KeyRing = RING, hash_key: bytes = HASH_KEY) -> SnapshotStore:
    return SnapshotStore(upstream, upstream, CODEC, CHUNKER, ring, hash_key)


async def test_a_database_comes_back(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    store, head = make(upstream), Head(7, b"h" * 32)
    (tmp_path / "new.db").write_bytes(DATA)
    await store.put(tmp_path / "new.db", head)
    root = await store.newest()
    assert root is not None
    assert (root.head, root.size) == (head, len(DATA))
    blocks = BlockCache(upstream, CODEC, 1 << 20, trio.CapacityLimiter(2))
    await store.get(root, tmp_path / "back.db", blocks)
    assert (tmp_path / "back.db").read_bytes() == DATA
    stored = len(upstream.stored)
    (tmp_path / "new.db").write_bytes(DATA[:-1])
    await store.put(tmp_path / "new.db", head)
    assert len(upstream.stored) - stored <= 1


@pytest.mark.logs_warnings
async def test_roots_that_do_not_authenticate_are_left_out(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    assert await make(upstream).newest() is None
    (tmp_path / "new.db").write_bytes(b"database")
    await make(upstream).put(tmp_path / "new.db", Head(1, bytes(32)))
    assert await make(upstream, ring_of(b"o" * 32)).newest() is None
    upstream.kept_roots[ROOT_NAME] = upstream.kept_roots[ROOT_NAME][:-1]
    assert await make(upstream).newest() is None


@pytest.mark.logs_warnings
@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
async def test_a_root_of_another_version_is_left_out(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: a root is a hint, and must not stop a drive from opening."""
    upstream = MemoryUpstream()
    upstream.kept_roots[ROOT_NAME] = msgpack.packb([version, RING.up_to(1), b"sealed"])
    assert await make(upstream).newest() is None
    assert f"snapshot root version {version} is unknown" in caplog.text


async def test_the_root_names_only_what_is_stored(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    upstream.away = True
    (tmp_path / "new.db").write_bytes(b"database")
    with pytest.raises(TransientError):
        await make(upstream).put(tmp_path / "new.db", Head(1, bytes(32)))
    assert upstream.kept_roots == {}


async def test_a_snapshot_that_is_another_is_refused(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    store = make(upstream)
    (tmp_path / "new.db").write_bytes(b"database")
    await store.put(tmp_path / "new.db", Head(1, bytes(32)))
    root = await store.newest()
    assert root is not None
    blocks = BlockCache(upstream, CODEC, 1 << 20, trio.CapacityLimiter(2))
    wrong = type(root)(root.head, root.size, bytes(32), root.blocks)
    with pytest.raises(CorruptError):
        await store.get(wrong, tmp_path / "back.db", blocks)


async def test_the_hash_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Whoever has only the key that seals roots cannot make the hash of a database."""
    upstream = MemoryUpstream()
    (tmp_path / "new.db").write_bytes(b"database")
    await make(upstream, hash_key=RING.newest.root).put(tmp_path / "new.db", Head(1, bytes(32)))
    root = await make(upstream).newest()
    assert root is not None
    blocks = BlockCache(upstream, CODEC, 1 << 20, trio.CapacityLimiter(2))
    with pytest.raises(CorruptError):
        await make(upstream).get(root, tmp_path / "back.db", blocks)


async def test_a_root_opens_blocks_of_all_epochs_for_who_has_the_drive_key_only(tmp_path: Path) -> None:
    upstream, ring, epoch = MemoryUpstream(), ring_of(epochs=0), None
    for number in range(1, 4):
        epoch = add_epochs(ring, epoch, 1)
        (tmp_path / "new.db").write_bytes(DATA[: number << 20])
        store = SnapshotStore(upstream, upstream, BlockCodec(b"i" * 32, ring), CHUNKER, ring, HASH_KEY)
        await store.put(tmp_path / "new.db", Head(number, bytes(32)))
    cold = ring_of(epochs=0)
    codec = BlockCodec(b"i" * 32, cold)
    store = SnapshotStore(upstream, upstream, codec, CHUNKER, cold, HASH_KEY)
    root = await store.newest()
    assert root is not None
    assert cold.up_to(3) == ring.up_to(3)
    await store.get(root, tmp_path / "back.db", BlockCache(upstream, codec, 0, trio.CapacityLimiter(2)))
    assert (tmp_path / "back.db").read_bytes() == DATA[: 3 << 20]


@pytest.mark.logs_warnings
async def test_no_epoch_of_a_root_can_be_changed(tmp_path: Path) -> None:
    upstream, ring = MemoryUpstream(), ring_of(epochs=3)
    (tmp_path / "new.db").write_bytes(b"database")
    await make(upstream, ring).put(tmp_path / "new.db", Head(1, bytes(32)))
    (root,) = [upstream.kept_roots[ROOT_NAME]]
    version, (one, two, three), sealed = msgpack.unpackb(root)
    for epochs in (
        [],
        [one, three],
        [one, two],
        [one, one, three],
        [two, one, three],
        [one, two, three, three],
    ):
        upstream.kept_roots[ROOT_NAME] = msgpack.packb([version, epochs, sealed])
        cold = ring_of(epochs=0)
        assert await make(upstream, cold).newest() is None
        with pytest.raises(UnknownEpochError):
            _ = cold.newest


@pytest.mark.logs_warnings
@pytest.mark.parametrize(
    "root", [b"", b"noise", b"\x93\x03\x90\xc0", b"\x93\x03\x91\xc0\xc4\x00", b"\x05", b"\xdd" * 9]
)
async def test_noise_is_no_root(root: bytes) -> None:
    upstream = MemoryUpstream()
    upstream.kept_roots[ROOT_NAME] = root
    assert await make(upstream).newest() is None
