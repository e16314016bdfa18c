"""Object layers in tests: on a drive on a memory upstream, and short ways to their calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from backend.upstream import Upstream
from cache.drive import Drive
from gateway.s3.objects import (
    UNCONDITIONAL,
    Checksums,
    Conditions,
    Metadata,
    ObjectInfo,
    ObjectLayer,
    S3Error,
    open_objects,
)
from tests.drives import opened
from tests.memory_upstream import MemoryUpstream

BUCKET = "bucket"


async def body_of(data: bytes, pieces: int = 1) -> AsyncIterator[bytes]:
    size = -(-len(data) // pieces) or 1
    for start in range(0, len(data), size):
        yield data[start : start + size]


def accepting(_md5: str) -> Checksums:
    return Checksums()


async def put(
    layer: ObjectLayer,
    key: bytes | str,
    data: bytes = b"",
    *,
    bucket: str = BUCKET,
    conditions: Conditions = UNCONDITIONAL,
    user: Mapping[str, str] | None = None,
) -> ObjectInfo:
    name = key.encode() if isinstance(key, str) else key
    metadata = Metadata(user=user or {})
    return await layer.put(bucket, name, body_of(data, 3), len(data), metadata, accepting, conditions)


async def get(
    layer: ObjectLayer, key: bytes | str, version_id: str | None = None, bucket: str = BUCKET
) -> bytes:
    name = key.encode() if isinstance(key, str) else key
    opened = layer.open(bucket, name, version_id)
    try:
        return b"".join([bytes(piece) async for piece in opened.read(0, opened.info.size)])
    finally:
        opened.close()


async def keys(layer: ObjectLayer, bucket: str = BUCKET, page: int = 1000, **said: Any) -> list[bytes]:
    """All keys and rolled-up prefixes, page by page."""
    found: list[bytes] = []
    after = b""
    while True:
        listing = await layer.list_objects(bucket, after=after, limit=page, **said)
        found += [item if isinstance(item, bytes) else item.key for item in listing.items]
        assert len(listing.items) <= page
        if not listing.truncated:
            return found
        after = listing.next_after


@contextmanager
def counted_rows(drive: Drive) -> Iterator[list[int]]:
    """How many rows of SQLite the namespace reads meanwhile: the only item."""
    connection, rows = drive.ledger.namespace.synced_connection(), [0]

    def note(_cursor: object, row: tuple[object, ...]) -> tuple[object, ...]:
        rows[0] += 1
        return row

    connection.setrowtrace(note)
    try:
        yield rows
    finally:
        connection.setrowtrace(None)


def refused(call: Callable[[], Any]) -> str:
    """The code by which a call is refused; empty if it is not."""
    try:
        call()
    except S3Error as error:
        return error.code
    return ""


async def code_of(awaitable: Any) -> str:
    """The same of a coroutine."""
    try:
        await awaitable
    except S3Error as error:
        return error.code
    return ""


@asynccontextmanager
async def layer_on(
    folder: Path, upstream: Upstream | None = None, buckets: Iterable[str] = (BUCKET,), **said: Any
) -> AsyncIterator[tuple[ObjectLayer, Drive]]:
    async with opened(folder, upstream or MemoryUpstream(), **said) as drive:
        layer = await open_objects(drive)
        known = {bucket.name for bucket in layer.buckets()}
        for name in buckets:
            if name not in known:
                await layer.create_bucket(name)
        yield layer, drive
