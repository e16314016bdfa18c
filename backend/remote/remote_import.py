"""A drive that is moved to a hub, or away from one, as its mover sees it. Blocks that old commits of a log
name may be gone."""

from __future__ import annotations

from typing import Final

from backend import wire
from backend.commits import encode_commit
from backend.errors import CorruptError
from backend.remote.hub_client import HubClient
from backend.system import plain_hash
from backend.upstream import Commit, Head


class RemoteImport:
    """See the module. Of the drive of that id, shown by `ticket` (16 random bytes), which counts from
    `take_over` on. Each call raises what `HubClient.call` does."""

    def __init__(self, client: HubClient, drive: bytes, ticket: bytes) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/import"
        self._ticket = ticket

    async def take_over(self, nodes: bytes) -> None:
        """Shut out every mover before this one, who comes from the nodes of that id. `ConflictError`: the
        drive is open, or is moved from or to others. Idempotent."""
        said = {"ticket": self._ticket.hex(), "nodes": nodes.hex()}
        await self._client.call("PUT", self._path, said=said)

    async def append(self, commit: Commit, expected: Head) -> Head:
        """As `CommitLog.append`; a block that is not stored is left out. `ConflictError`: also if another
        mover has taken over."""
        encoded = encode_commit(commit)
        head = Head(commit.number, plain_hash(encoded))
        said = self._shown(expected)
        answer = await self._client.call("POST", f"{self._path}/log", content=encoded, headers=said)
        if wire.decode_head(answer.text) != head:
            raise CorruptError(f"the hub says that it took another commit than number {commit.number}")
        return head

    async def open(self, head: Head) -> None:
        """All is there: devices may write. `ConflictError`: another mover has taken over, or the newest
        commit is another. Idempotent."""
        await self._client.call("DELETE", self._path, headers=self._shown(head))

    def _shown(self, expected: Head) -> dict[str, str]:
        return {"Import-Ticket": self._ticket.hex(), "Expected-Head": wire.encode_head(expected)}


class RemoteDeparture:
    """A drive that is moved away from a hub, as its mover sees it; else as `RemoteImport`."""

    def __init__(self, client: HubClient, drive: bytes, ticket: bytes) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/departure"
        self.ticket: Final = ticket

    async def begin(self, nodes: bytes, *, over: bool = False) -> None:
        """Shut out every mover before this one, who goes to the nodes of that id. `over`: also one to the
        same who has closed the drive. `ConflictError`: it is not open there. Idempotent."""
        said = {"ticket": self.ticket.hex(), "nodes": nodes.hex(), "over": over}
        await self._client.call("PUT", self._path, said=said)

    async def close(self) -> Head:
        """The newest commit, after which the hub takes none. `ConflictError`: this has not begun, or another
        mover counts. Idempotent."""
        answer = await self._client.call("PUT", f"{self._path}/end", headers=self._shown)
        return wire.decode_head(answer.text)

    async def stay(self) -> None:
        """Devices may write at the hub again, and this mover closes it never again: a request to close that
        is still under way comes too late. `ConflictError`: another mover counts. Idempotent."""
        await self._client.call("DELETE", self._path, headers=self._shown)

    async def leave(self) -> None:
        """Devices at the hub are told from now on that the drive was moved away. As of `stay`."""
        await self._client.call("POST", self._path, headers=self._shown)

    @property
    def _shown(self) -> dict[str, str]:
        return {"Import-Ticket": self.ticket.hex()}
