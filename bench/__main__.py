"""`python -m bench`: how fast the parts are on this machine, one line each (higher is better).

These are the limits that a mount can reach; how a whole mount compares with other file systems is in
docs/performance.md, with the command that measured it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from backend.coding.erasure import Profile, code_for
from backend.keys.key_ring import KeyRing
from backend.keys.keys import DriveKeys
from backend.upstream import SealedBlock
from cache.blocks.block_codec import BlockCodec
from cache.blocks.chunking import Chunker
from cache.journal.format import RecordType
from cache.journal.journal import Journal
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, Create
from tests.contents import STORED_KINDS, Kind, content

MIB = 1 << 20
KEY = bytes(range(32))


def rate(name: str, count: float, unit: str, work: Callable[[], object]) -> None:
    """Do `work` once and print how many of `count` a second that was."""
    start = time.perf_counter()
    work()
    print(f"{name:32s} {count / (time.perf_counter() - start):12,.0f} {unit}", flush=True)


def new_ring() -> KeyRing:
    """Of a drive with one key epoch."""
    ring = KeyRing(KEY[:16], DriveKeys(KEY, KEY[:16]))
    ring.learn_all([ring.next_after(None)])
    return ring


def blocks() -> None:
    """The path of a block: cut, name, compress, encrypt, code."""
    data = os.urandom(64 * MIB)
    chunker, codec = Chunker(KEY), BlockCodec(KEY, new_ring())
    rate("cut", 64, "MiB/s", lambda: list(chunker.cut(data, last=True)))
    rate("name (keyed BLAKE3)", 64, "MiB/s", lambda: codec.block_id(data))
    for kind in STORED_KINDS:
        seal_and_open(codec, kind)
    code = code_for(Profile.parse("4+2"))
    packs = [data[at : at + 8 * MIB] for at in range(0, len(data), 8 * MIB)]
    rate("code 4+2 in packs of 8 MiB", 64, "MiB/s", lambda: [code.encode(pack) for pack in packs])


def seal_and_open(codec: BlockCodec, kind: Kind) -> None:
    """Blocks of 1 MiB of one kind."""
    pieces = [content(kind, MIB, number) for number in range(16)]
    names = [codec.block_id(piece) for piece in pieces]
    sealed: list[SealedBlock] = []
    rate(f"seal {kind}", 16, "MiB/s", lambda: sealed.extend(map(codec.seal, names, pieces)))
    rate(f"open {kind}", 16, "MiB/s", lambda: [codec.open(one.id, one.data) for one in sealed])


def namespace(folder: Path, count: int = 20_000) -> None:
    """The reducer and its database."""
    space = Namespace(str(folder / "namespace.db"), device=1)
    creates = [
        Create(ROOT_INODE, b"name%d" % number, space.allocate_inode(), 0o100644, 0, 0, 0, b"", number)
        for number in range(count)
    ]
    rate("apply Create", count, "/s", lambda: _apply(space, creates))
    rate("save", count, "rows/s", lambda: space.save(1))
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
