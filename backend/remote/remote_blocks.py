"""The blocks of a drive on a hub: taken, sent in the background, read.

Invariants:
1. A block is in the buffer from `put_blocks` until the hub has acknowledged it: it can always be read.
2. Buffered bytes are bounded; a batch that could not be sent stays, and is tried again with growing waits, at
   once when `flush` asks.
Event-loop thread. Tasks belong to the nursery inside `run`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import trio

from backend import wire
from backend.blocks import BlockBuffer, PendingPack
from backend.buffer import Buffer
from backend.errors import CorruptError
from backend.packs import MAX_BLOCK_SIZE, SMALL
from backend.remote.hub_client import HubClient
from backend.remote.near_blocks import NearBlocks
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, BlockPart, SealedBlock

CAPACITY: Final = 64 << 20
BATCH: Final = 4 << 20
AT_ONCE: Final = 6
LINGER: Final = 0.005
_SIZE: Final = "Drivefs-Block-Size"


class RemoteBlocks:
    """See the module, and `backend.upstream.BlockStore`."""

    def __init__(self, client: HubClient, drive: bytes, environment: Environment = THIS_MACHINE) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/blocks"
        self._buffer = BlockBuffer(CAPACITY, BATCH, environment)
        self._near = NearBlocks()
        # Where uploads are limited each batch has the whole rate: a hub ends bodies that are too slow.
        self._slots = trio.Semaphore(1 if client.uploads_are_limited else AT_ONCE)

    @property
    def pending_bytes(self) -> int:
        """Bytes that were taken and that the hub has not acknowledged."""
        return self._buffer.size

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what was taken, until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await self._slots.acquire()
                batch = await self._buffer.next_pack(LINGER)
                nursery.start_soon(self._send, batch)

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        asked = [block for block in dict.fromkeys(ids) if block not in self._buffer]
        found: set[BlockId] = set()
        for start in range(0, len(asked), wire.MAX_IDS):
            page = asked[start : start + wire.MAX_IDS]
            answer = await self._client.call("POST", f"{self._path}/missing", content=wire.encode_ids(page))
            found |= {*wire.decode_ids(answer.content)} & {*page}
        return found

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        for block in blocks:
            if block.id not in self._buffer:
                await self._buffer.wait_for_room(len(block.data))
            if block.id not in self._buffer:
                self._buffer.take(block)
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        await self._buffer.flush()

    async def get_block(self, block: BlockId) -> Buffer:
        return (await self.get_block_part(block, 0, MAX_BLOCK_SIZE)).data

    def at_hand(self, block: BlockId) -> Buffer | None:
        """The sealed block whole, if it is in memory: it waits to be sent, or came with another one."""
        buffered = self._buffer.read(block)
        return self._near.get(block) if buffered is None else buffered

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        whole = self.at_hand(block)
        if whole is None:
            return await self._asked(block, offset, length)
        return BlockPart(whole[offset : offset + length], len(whole))

    async def _asked(self, block: BlockId, offset: int, length: int) -> BlockPart:
        params: dict[str, str | int] = {"offset": offset, "length": length}
        if self._near.are_wanted:
            params["near"] = 1
        answer = await self._client.call("GET", f"{self._path}/{block.hex()}", params=params)
        if _SIZE not in answer.headers and "near" in params:
            whole = self._with_others(block, answer.content)
            return BlockPart(whole[offset : offset + length], len(whole))
        size = wire.decode_number(answer.headers.get(_SIZE, ""))
        if size > MAX_BLOCK_SIZE or len(answer.content) > length:
            raise CorruptError("the hub gave what is no part of a block")
        if size <= SMALL:
            self._near.note_alone()
        return BlockPart(answer.content, size)

    def _with_others(self, block: BlockId, content: bytes) -> Buffer:
        """The block, of an answer that has it first; what is near it is kept."""
        given = wire.decode_blocks(content)
        if not given or given[0].id != block:
            raise CorruptError("the hub gave another block than was asked for")
        self._near.keep(given[0], given[1:])
        return given[0].data

    async def get_block_again(self, block: BlockId) -> bytes:
        buffered = self._buffer.read(block)
        if buffered is not None:
            return bytes(buffered)
        self._near.forget(block)
        return (await self._client.call("GET", f"{self._path}/{block.hex()}", params={"again": 1})).content

    async def report_wrong(self, block: BlockId) -> bool:
        answer = await self._client.call("POST", f"{self._path}/{block.hex()}/wrong")
        return answer.said.get("elsewhere") is True

    async def _send(self, batch: PendingPack) -> None:
        """Send one batch, however long it takes, and give the slot back."""
        content = wire.encode_blocks(batch.blocks())
        attempt = partial(self._client.call, "POST", self._path, content=content)
        await self._buffer.keep_trying(batch, attempt, logging.INFO)
        self._buffer.remove(batch)
        self._slots.release()
