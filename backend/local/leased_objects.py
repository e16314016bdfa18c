"""The commit log and the roots on the nodes, written under this session's lease."""

from __future__ import annotations

import trio

from backend.commits import ROOTS, ReplicatedCommitLog, ReplicatedObjects, mend_root
from backend.errors import ConflictError, FencedError
from backend.local.gate import Gate
from backend.local.session_writer import SessionWriter
from backend.upstream import Commit, Head


class LeasedLog:
    """See `backend.upstream.CommitLog`. `log` must have `Lease.verify` of the writer's lease as its fence.
    What is written passes the `gate`."""

    def __init__(self, log: ReplicatedCommitLog, writer: SessionWriter, gate: Gate) -> None:
        self._log = log
        self._writer = writer
        self._gate = gate

    async def head(self) -> Head:
        """Of a writer the one that it made; a reader looks for it."""
        return self._log.head if self._writer.may_write else await self._log.refresh()

    async def append(self, commit: Commit, expected: Head) -> Head:
        async with self._gate.passing():
            await self._writer.ensure()
            head = await self._log.append(commit, expected)
            self._writer.note_append()
            return head

    async def take(self, commit: Commit, expected: Head) -> Head:
        """See `ReplicatedCommitLog.take`. Nothing may be deleted for its sake."""
        async with self._gate.passing():
            await self._writer.ensure()
            return await self._log.take(commit, expected)

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        return await self._log.commits_after(number, limit)

    async def wait_for_change(self, number: int) -> None:
        await self._log.wait_for_change(number)


class LeasedRoots:
    """See `backend.upstream.Roots`. What is written passes the `gate`."""

    def __init__(self, objects: ReplicatedObjects, writer: SessionWriter, gate: Gate) -> None:
        self._objects = objects
        self._writer = writer
        self._gate = gate
        self._writing = trio.Lock()

    async def put_root(self, name: str, data: bytes) -> None:
        async with self._gate.passing(), self._writing:
            await self._put_root(name, data)

    async def mend(self, key: str) -> int:
        """As of `mend_root`, of the root with this key. No root is put meanwhile: of two versions of one
        lease the older could take the newer one's place."""
        async with self._gate.passing(), self._writing:
            await self._writer.held().ensure()
            return await mend_root(self._objects, key)

    async def _put_root(self, name: str, data: bytes) -> None:
        lease = self._writer.held()
        await lease.ensure()
        try:
            await self._objects.put(ROOTS + name, data, lease.epoch)
        except ConflictError as error:
            await lease.verify()
            raise FencedError(str(error)) from None

    async def get_root(self, name: str) -> list[bytes]:
        """A damaged copy is left out, and all damaged are `CorruptError`."""
        return await self._objects.get_all(ROOTS + name)
