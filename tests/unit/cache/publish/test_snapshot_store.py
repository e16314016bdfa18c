"""Snapshots as blocks and a sealed root."""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import pytest
import trio

from backend.errors import CorruptError, TransientError
from backend.system.crypto import seal
from backend.upstream import Head
from cache.blocks.block_cache import BlockCache
from cache.blocks.block_codec import BlockCodec
from cache.blocks.chunking import Chunker
from cache.publish.snapshot_store import ROOT_NAME, VERSION, SnapshotStore
from tests.memory_upstream import MemoryUpstream

DRIVE, KEY, HASH_KEY = bytes(16), b"r" * 32, b"h" * 32
CODEC = BlockCodec(DRIVE, b"i" * 32, b"k" * 32)
DATA = random.Random(3).randbytes(20 << 20)


def make(upstream: MemoryUpstream, key: bytes = KEY, hash_key: bytes = HASH_KEY) -> SnapshotStore:
    return SnapshotStore(upstream, upstream, CODEC, Chunker(b"c" * 32), DRIVE, key, hash_key)


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
    assert await make(upstream, b"o" * 32).newest() is None
    upstream.kept_roots[ROOT_NAME] = upstream.kept_roots[ROOT_NAME][:-1]
    assert await make(upstream).newest() is None


@pytest.mark.logs_warnings
@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
async def test_a_root_of_another_version_is_left_out(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: a root is a hint, and must not stop a drive from opening."""
    upstream = MemoryUpstream()
    body = [version, 1, bytes(32), 0, bytes(32), []]
    upstream.kept_roots[ROOT_NAME] = seal(KEY, msgpack.packb(body), b"drivefs snapshot root\0" + DRIVE)
    assert await make(upstream).newest() is None
    assert f"snapshot root version {version} " in caplog.text


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
    await make(upstream, hash_key=KEY).put(tmp_path / "new.db", Head(1, bytes(32)))
    root = await make(upstream).newest()
    assert root is not None
    blocks = BlockCache(upstream, CODEC, 1 << 20, trio.CapacityLimiter(2))
    with pytest.raises(CorruptError):
        await make(upstream).get(root, tmp_path / "back.db", blocks)
