"""The memory of a hub's process: one heap for all of its threads."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import trio

from backend.remote import HubClient, RemoteUpstream
from backend.system import plain_hash
from backend.upstream import BlockId, SealedBlock
from tests.contents import STORED_KINDS, content
from tests.heaps import heaps_of_threads
from tests.hub_process import hub_process

SIZE = 700_000
ROUNDS = 6


async def stored_and_read(url: str, uuid: bytes, token: bytes) -> None:
    """Blocks of each kind of content go to the hub, and come back as they were."""
    client = HubClient(url, token)
    upstream = RemoteUpstream(client, uuid)
    salt = Random(1)
    data = [content(kind, SIZE) + salt.randbytes(8) for kind in STORED_KINDS for _ in range(ROUNDS)]
    blocks = [SealedBlock(BlockId(plain_hash(each)), each) for each in data]
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        await upstream.blocks.put_blocks(blocks)
        await upstream.blocks.flush()
        for block in blocks:
            assert bytes(await upstream.blocks.get_block(block.id)) == block.data
        await upstream.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into every process's memory")
def test_all_threads_of_a_hub_share_one_heap(tmp_path: Path) -> None:
    """What one thread freed is taken by the next, and the kernel clears no pages anew for each pack."""
    hub = hub_process(tmp_path)
    uuid, token = hub.new_drive()
    with hub.serving() as process:
        trio.run(stored_and_read, hub.url, uuid, token)
        assert list(heaps_of_threads(process.pid)) == []
