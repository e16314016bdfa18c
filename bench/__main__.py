"""`python -m bench`: how fast the parts are on this machine, one line each (higher is better).

These are the limits that a mount can reach; how a whole mount compares with other file systems is in
docs/performance.md, with the command that measured it.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from backend.erasure import Profile, code_for
from cache.block_codec import BlockCodec
from cache.chunking import Chunker
from cache.journal import Journal
from cache.journal_format import RecordType
from cache.namespace import Namespace
from cache.operations import ROOT_INODE, Create

MIB = 1 << 20
KEY = bytes(range(32))


def rate(name: str, count: float, unit: str, work: Callable[[], object]) -> None:
    """Do `work` once and print how many of `count` a second that was."""
    start = time.perf_counter()
    work()
    print(f"{name:32s} {count / (time.perf_counter() - start):12,.0f} {unit}", flush=True)


def prose(size: int) -> bytes:
    """Compressible bytes that do not repeat."""
    source = random.Random(3)
    words = [bytes(source.choices(b"etaoinshrdlu", k=source.randint(2, 10))) for _ in range(4000)]
    return b" ".join(source.choices(words, k=size // 5))[:size]


def blocks() -> None:
    """The path of a block: cut, name, compress, encrypt, code."""
    data, text = os.urandom(64 * MIB), prose(16 * MIB)
    chunker, codec = Chunker(KEY), BlockCodec(KEY[:16], KEY, KEY)
    rate("cut", 64, "MiB/s", lambda: list(chunker.cut(data, last=True)))
    rate("name (keyed BLAKE3)", 64, "MiB/s", lambda: codec.block_id(data))
    pieces = [memoryview(data)[at : at + MIB] for at in range(0, len(data), MIB)]
    rate("seal random blocks", 64, "MiB/s", lambda: [codec.seal(codec.block_id(b""), p) for p in pieces])
    lines = [memoryview(text)[at : at + MIB] for at in range(0, 16 * MIB, MIB)]
    rate("seal prose", 16, "MiB/s", lambda: [codec.seal(codec.block_id(b""), p) for p in lines])
    code = code_for(Profile.parse("4+2"))
    packs = [data[at : at + 8 * MIB] for at in range(0, len(data), 8 * MIB)]
    rate("code 4+2 in packs of 8 MiB", 64, "MiB/s", lambda: [code.encode(pack) for pack in packs])


def namespace(folder: Path, count: int = 20_000) -> None:
    """The reducer and its database."""
    space = Namespace(str(folder / "namespace.db"), device=1)
    creates = [
        Create(ROOT_INODE, b"name%d" % number, space.allocate_inode(), 0o100644, 0, 0, 0, b"", number)
        for number in range(count)
    ]
    rate("apply Create", count, "/s", lambda: _apply(space, creates))
    rate("flush", count, "rows/s", lambda: space.flush(1))
    names = [create.name for create in creates]
    rate("look up a hot name", count, "/s", lambda: [space.entry(ROOT_INODE, name) for name in names])
    space.close()


def _apply(space: Namespace, creates: list[Create]) -> None:
    for create in creates:
        space.apply(create)


def journal(folder: Path) -> None:
    """Accepting: into the page cache, and onto the disk."""
    opened = Journal(folder / "journal")
    list(opened.replay())
    opened.start(1)
    small, large = bytes(120), os.urandom(MIB)
    rate("append 120 bytes", 20_000, "/s", lambda: _append(opened, small, 20_000))
    rate("append 1 MiB", 64, "MiB/s", lambda: _append(opened, large, 64))

    async def synced(count: int) -> None:
        for _ in range(count):
            _append(opened, small, 1)
            await opened.sync()

    rate("append and sync", 200, "/s", lambda: trio.run(synced, 200))
    opened.close()


def _append(opened: Journal, payload: bytes, count: int) -> None:
    for _ in range(count):
        opened.append(RecordType.OPERATION, (payload,), 1)


def main() -> None:
    """All parts."""
    blocks()
    with tempfile.TemporaryDirectory() as folder:
        namespace(Path(folder))
        journal(Path(folder))


if __name__ == "__main__":
    main()
