"""Devices that load a hub: many of them in one process, with requests that cost it little.

A connection sends bytes that were made before and reads just what it needs of an answer, so that what is
measured is the hub. asyncio's thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from backend import wire
from backend.commits import encode_commit
from backend.system import plain_hash
from backend.upstream import NO_COMMIT, BlockId, Commit, Head, SealedBlock

PAYLOAD: Final = 3072
"""Bytes of sealed operations of a commit: a save of a document."""
ADDED: Final = 4
"""Blocks that a commit adds."""
BATCH: Final = 8 << 20
"""Bytes of blocks that a device sends together."""
EMPTY: Final = Head(0, NO_COMMIT)


class Connection:
    """One that stays open, for one request at a time."""

    def __init__(self, port: int, token: bytes) -> None:
        self._port = port
        self._head = f" HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token.hex()}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: str, body: bytes = b"", headers: str = "") -> bytes:
        """The body of the answer; `RuntimeError` if it is a refusal."""
        status, answer = await self.answered(request, body, headers)
        if status >= 400:
            raise RuntimeError(f"{request}: {status} {answer[:300]!r}")
        return answer

    async def answered(self, request: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Status and body of the answer."""
        reader, writer = self._streams or await self._connect()
        head = f"{request}{self._head}{headers}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0"
        return int(answer[9:12]), await reader.readexactly(int(length))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def drop(self) -> None:
        """Let go of the connection, as one whose network goes: nothing is said."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


@dataclass
class Device:
    """A device of an account of its own, with one drive, which it alone writes."""

    connection: Connection
    uuid: bytes
    head: Head = EMPTY

    async def poll(self, seconds: float) -> None:
        """Wait for a commit that this device does not know; again while the hub says that it is to come
        later, or ends the connection."""
        said = {"drives": {self.uuid.hex(): self.head.number}, "timeout": seconds}
        while True:
            try:
                status, answer = await self.connection.answered("POST /v1/wait", json.dumps(said).encode())
            except (OSError, asyncio.IncompleteReadError):
                self.connection.drop()
                status, answer = 503, b""
            if status in (200, 204):
                return
            if status != 503:
                raise RuntimeError(f"a poll: {status} {answer[:300]!r}")
            await asyncio.sleep(1 + random.random())  # as the answer asks, and devices do

    async def append(self, added: Sequence[BlockId]) -> None:
        """Publish a commit."""
        number = self.head.number + 1
        commit = Commit(number, self.head.hash, 1, 0, number, tuple(added), (), os.urandom(PAYLOAD))
        encoded = encode_commit(commit)
        said = f"Expected-Head: {wire.encode_head(self.head)}\r\n"
        await self.connection.ask(f"POST {self._path}/log", encoded, said)
        self.head = Head(number, plain_hash(encoded))

    async def missing(self, ids: Sequence[BlockId]) -> list[BlockId]:
        """Those that the hub has not."""
        answer = await self.connection.ask(f"POST {self._path}/blocks/missing", wire.encode_ids(ids))
        return wire.decode_ids(answer)

    async def put(self, blocks: Iterable[SealedBlock]) -> None:
        """Give blocks, many at a time."""
        waiting: list[SealedBlock] = []
        for block in blocks:
            if waiting and sum(len(each.data) for each in waiting) + len(block.data) > BATCH:
                await self.connection.ask(f"POST {self._path}/blocks", wire.encode_blocks(waiting))
                waiting = []
            waiting.append(block)
        await self.connection.ask(f"POST {self._path}/blocks", wire.encode_blocks(waiting))

    async def save(self, sizes: Sequence[int]) -> None:
        """A file of such blocks is stored and published, as a mount does it."""
        blocks = new_blocks(sizes)
        await self.missing([block.id for block in blocks])
        await self.put(blocks)
        await self.append([block.id for block in blocks])

    async def read(self, block: BlockId) -> int:
        """Bytes of a block that was read."""
        return len(await self.connection.ask(f"GET {self._path}/blocks/{block.hex()}"))

    async def log(self, after: int) -> int:
        """Bytes of the commits after that one, as many as are given at once."""
        return len(await self.connection.ask(f"GET {self._path}/log?after={after}"))

    @property
    def _path(self) -> str:
        return f"/v1/drives/{self.uuid.hex()}"


def new_blocks(sizes: Sequence[int]) -> list[SealedBlock]:
    """Blocks as a hub sees them: nothing but bytes at random."""
    return [SealedBlock(BlockId(os.urandom(32)), os.urandom(size)) for size in sizes]


def enrol(conninfo: str, port: int, count: int) -> list[Device]:
    """So many new accounts, each with a device and a drive."""
    tokens, uuids = ([os.urandom(size) for _ in range(count)] for size in (32, 16))
    rows = [(each.hex(), hashlib.sha256(token).digest()) for each, token in zip(uuids, tokens, strict=True)]
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE new (uuid text, token bytea) ON COMMIT DROP")
        with cursor.copy("COPY new FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute("INSERT INTO account (email) SELECT uuid FROM new")
        cursor.execute(
            "INSERT INTO device (account, token)"
            " SELECT a.id, new.token FROM new JOIN account a ON a.email = new.uuid"
        )
        cursor.execute(
            "INSERT INTO drive (account, uuid)"
            " SELECT a.id, decode(new.uuid, 'hex') FROM new JOIN account a ON a.email = new.uuid"
        )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("ANALYZE")
    return [Device(Connection(port, token), uuid) for token, uuid in zip(tokens, uuids, strict=True)]


Call = Callable[[], Awaitable[object]]


async def together(calls: Iterable[Iterable[Call]]) -> None:
    """Make the calls of all devices: those of one device one after the other."""

    async def in_turn(of_one: Iterable[Call]) -> None:
        for call in of_one:
            await call()

    async with asyncio.TaskGroup() as group:
        for of_one in calls:
            group.create_task(in_turn(of_one))
