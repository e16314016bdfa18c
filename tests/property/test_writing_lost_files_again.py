"""A file whose fragments are damaged beyond parity is lost; written again, it is there again, for everybody.

Whatever notices the damage (a read of the whole or of a part, a scrub, a repair that fails, a new mount that
misses names), no later write relies on what is broken: what `sync` returned for is read by a fresh cache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.care.scrub import Scrub
from backend.coding.erasure import Profile, code_for
from backend.errors import CorruptError, DriveError
from backend.packs.pack_codec import PackCodec
from backend.upstream import SealedBlock
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.contents import contents
from tests.drives import content_of, make_file, opened
from tests.memory_node import MemoryNode, memory_nodes
from tests.upstreams import DRIVE, KEYS, LocalDrive

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda data: bytes(byte ^ 0xFF if at % 97 == 0 else byte for at, byte in enumerate(data)),
    "zeroed": lambda data: bytes(len(data)),
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}
GONE = "gone"


def damage(node: MemoryNode, how: str) -> None:
    for key in [key for key in node.objects if key.startswith("packs/")]:
        if how == GONE:
            del node.objects[key]
        else:
            node.objects[key] = DAMAGES[how](node.objects[key])


async def read_whole(local: LocalDrive, drive: Drive, data: bytes) -> bool:
    """Whether it failed: what is on one good node alone can be read, and nobody has noticed anything then."""
    try:
        assert await content_of(drive, b"file") == data
    except DriveError:
        return True
    return False


async def read_parts(local: LocalDrive, drive: Drive, data: bytes) -> bool:
    """Whether one failed."""
    attributes, failed = drive.lookup(ROOT_INODE, b"file"), False
    for start in range(attributes.size - 1, -1, -max(attributes.size // 5, 1)):
        try:
            assert await drive.read(attributes.inode, start, 1000) == data[start : start + 1000]
        except DriveError:
            failed = True
    return failed


async def scrub(local: LocalDrive, drive: Drive, data: bytes) -> bool:
    with TemporaryDirectory() as folder:
        code, index = code_for(Profile.parse("4+2")), local.index
        await Scrub(
            local.nodes, PackCodec(code, DRIVE, KEYS.pack), index, lambda: None, Path(folder), interval=0
        ).scrub()
    return True


async def repair(local: LocalDrive, drive: Drive, data: bytes) -> bool:
    for pack in local.index.packs.after(b"", 1000):
        local.index.packs.want_repair(pack.id)
    assert await local.blocks.repairs.repair_all() == 0
    return True


NOTICED: dict[str, Callable[[LocalDrive, Drive, bytes], Awaitable[bool]]] = {
    "read": read_whole,
    "read in parts": read_parts,
    "scrubbed": scrub,
    "repaired": repair,
}


@pytest.mark.logs_warnings
@settings(max_examples=40)
@given(
    data=contents(min_size=1, max_size=300_000).filter(any),
    damaged=st.sets(st.integers(0, 5), min_size=3),
    how=st.sampled_from([*DAMAGES, GONE]),
    noticed=st.sampled_from(sorted(NOTICED)),
    remounted=st.booleans(),
)
async def test_what_is_written_again_is_there(
    data: bytes, damaged: set[int], how: str, noticed: str, remounted: bool
) -> None:
    nodes = memory_nodes(6)
    local = LocalDrive(nodes)
    with TemporaryDirectory() as folder:
        async with local.opened() as upstream, opened(Path(folder, "here"), upstream) as drive:
            await make_file(drive, b"file", data)
            await drive.sync()
            await settled(local)
            for number in damaged:
                damage(nodes[f"node{number}"], how)
            drive.blocks.clear()
            known = await NOTICED[noticed](local, drive, data)
            if not remounted:
                await write_again(drive, data)
        if remounted:
            async with local.opened() as upstream, opened(Path(folder, "here"), upstream) as drive:
                known = await NOTICED[noticed](local, drive, data) or known
                await write_again(drive, data)
        async with local.opened() as upstream, opened(Path(folder, "elsewhere"), upstream) as drive:
            if known:
                assert await content_of(drive, b"again") == data
                assert await content_of(drive, b"file") == data


async def settled(local: LocalDrive) -> None:
    """All six fragments are on their nodes."""
    while local.index.packs.to_repair(1):
        await trio.sleep(0.001)


async def write_again(drive: Drive, data: bytes) -> None:
    await make_file(drive, b"again", data)
    await drive.sync()
    drive.blocks.clear()
    assert await content_of(drive, b"again") == data
    assert await content_of(drive, b"file") == data


@pytest.mark.logs_warnings
@settings(max_examples=20)
@given(data=contents(min_size=1, max_size=100_000).filter(any))
async def test_a_block_that_is_wrong_in_good_fragments_is_not_relied_on(data: bytes) -> None:
    """The bytes were wrong when the fragments were made: no checksum tells, only the block does."""
    nodes = memory_nodes(6)
    local = LocalDrive(nodes)
    with TemporaryDirectory() as folder:
        async with local.opened() as upstream, opened(Path(folder, "here"), upstream) as drive:
            await make_file(drive, b"file", data)
            with pytest.MonkeyPatch.context() as patch:
                put = local.blocks.put_blocks
                patch.setattr(local.blocks, "put_blocks", lambda blocks: put(list(map(spoilt, blocks))))
                await drive.sync()
            drive.blocks.clear()
            with pytest.raises(CorruptError):
                await content_of(drive, b"file")
            await write_again(drive, data)
        async with local.opened() as upstream, opened(Path(folder, "elsewhere"), upstream) as drive:
            assert await content_of(drive, b"again") == data
            assert await content_of(drive, b"file") == data


def spoilt(block: SealedBlock) -> SealedBlock:
    data = bytes(block.data)
    return SealedBlock(block.id, data[:-1] + bytes([data[-1] ^ 1]))
