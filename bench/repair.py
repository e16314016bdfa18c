"""`python -m bench.repair [--gib N] [--folder D]`: how long the repair of a lost node takes.

Six nodes in one folder get N GiB of random blocks with 4+2; one of them is emptied; then the time is taken
until every pack is whole again. Beside it, what the disk does by itself: one file written and read in order.
Needs about 1.6 x N GiB of room. The nodes share a disk here, so reading and writing share its speed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from backend.blocks.block_store import PackedBlockStore
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity, initialise_directory_node
from backend.nodes.node import Node
from backend.packs.pack_codec import PackCodec
from backend.upstream import BlockId, SealedBlock
from tests.writers import FreeWriter

MIB: Final = 1 << 20
DRIVE: Final = bytes(range(16))
PROFILE: Final = Profile.parse("4+2")
LOST: Final = "node0"
SAMPLE: Final = 1024 * MIB


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.repair", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="GiB of pack data (default: 1)")
    parser.add_argument("--folder", default=None, help="where the nodes lie (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drivefs-repair-", dir=options.folder) as folder:
        trio.run(measure, Path(folder), int(options.gib * 1024))


async def measure(folder: Path, mebibytes: int) -> None:
    """Fill, lose, repair; print a line for each figure."""
    write, read = disk_speed(folder / "sample")
    show("the disk, one file written and synced", write, "MiB/s")
    show("the disk, the same file read", read, "MiB/s")
    nodes = make_nodes(folder)
    cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in nodes))
    index = SqliteBlockIndex(str(folder / "blocks.db"), DRIVE, PROFILE.m)
    store = PackedBlockStore(
        nodes, PackCodec(code_for(PROFILE), DRIVE, bytes(32)), cluster, index, FreeWriter()
    )
    await fill(store, mebibytes)
    held = sum(path.stat().st_size for path in (folder / LOST / "packs").glob("*/*"))
    shutil.rmtree(folder / LOST)
    nodes |= make_nodes(folder)
    os.sync()
    took = await repaired(store)
    show("pack data", mebibytes / 1024, "GiB", digits=1)
    show("the lost node held", held / MIB / 1024, "GiB", digits=2)
    show("until every pack is whole", took, "s", digits=1)
    rebuilt = held / MIB / took
    show("rebuilt", rebuilt, "MiB/s")
    show("read and written for it", rebuilt * PROFILE.total, "MiB/s")
    show("of the disk's sequential speed", 100 * took_at_full_speed(held, write, read) / took, "%")
    await store.close()


def took_at_full_speed(held: int, write: float, read: float) -> float:
    """Seconds in which the disk alone could read the k+m-1 other fragments and write the lost ones."""
    return held / MIB * ((PROFILE.total - 1) / read + 1 / write)


def make_nodes(folder: Path) -> dict[str, Node]:
    """The nodes below `folder`; those that are missing are made."""
    nodes: dict[str, Node] = {}
    for number in range(PROFILE.total):
        identity = NodeIdentity(f"node{number}", DRIVE, f"node{number}")
        initialise_directory_node(str(folder / identity.name), DRIVE, identity.name, identity.zone)
        nodes[identity.name] = DirectoryNode(str(folder / identity.name), identity)
    return nodes


async def fill(store: PackedBlockStore, mebibytes: int) -> None:
    """Store random blocks of 1 MiB until nothing is pending."""
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for block in blocks(mebibytes):
            await store.put_blocks([block])
        await store.flush()
        while (await store.status()).packs_to_repair:  # the last fragments are still being written
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


def blocks(count: int) -> Iterator[SealedBlock]:
    """Blocks that do not compress or repeat."""
    for _ in range(count):
        yield SealedBlock(BlockId(os.urandom(32)), os.urandom(MIB))


async def repaired(store: PackedBlockStore) -> float:
    """Seconds from the first look at the nodes until nothing is left to repair."""
    begun = time.perf_counter()
    await store.reconcile()
    await store.repairs.repair_all()
    took = time.perf_counter() - begun
    left = (await store.status()).packs_to_repair
    if left:
        raise SystemExit(f"{left} packs are not whole: the figures mean nothing")
    return took


def disk_speed(path: Path) -> tuple[float, float]:
    """MiB/s of a file written in order and synced, and read again from the disk."""
    data = os.urandom(8 * MIB)
    begun = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(SAMPLE // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        wrote = time.perf_counter() - begun
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(8 * MIB):
            pass
    read = time.perf_counter() - begun
    path.unlink()
    return SAMPLE / MIB / wrote, SAMPLE / MIB / read


def show(name: str, value: float, unit: str, digits: int = 0) -> None:
    """One line."""
    print(f"{name:40s} {value:10,.{digits}f} {unit}", flush=True)


if __name__ == "__main__":
    main()
