"""The log, the roots and the housekeeping of a drive on a hub."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import trio

from backend import wire
from backend.commits import decode_commit, encode_commit
from backend.errors import (
    AwayError,
    BlocksMissingError,
    CorruptError,
    FormatError,
    NotFoundError,
    TransientError,
)
from backend.remote.hub_client import Answer, HubClient
from backend.remote.remote_presence import RemotePresence
from backend.system import plain_hash
from backend.upstream import (
    NO_COMMIT,
    BlockId,
    Capacity,
    Commit,
    CompactionReport,
    Head,
    Shortfall,
    StoreStatus,
)

POLL_SECONDS: Final = 60.0
SHORTEST_POLL: Final = 1.0
"""Seconds from one poll to the next, though the hub should answer at once."""
_PAUSE: Final = 0.2


class RemoteLog:
    """See `backend.upstream.CommitLog`. The chain is checked here: nothing that the hub says of an order is
    believed."""

    def __init__(self, client: HubClient, drive: bytes, presence: RemotePresence | None = None) -> None:
        """`presence`: is told of what others show by the polls of this."""
        self._client = client
        self._presence = presence
        self._drive = drive.hex()
        self._path = f"/v1/drives/{drive.hex()}"
        self._presence_due = -math.inf

    async def head(self) -> Head:
        return wire.decode_head((await self._client.call("GET", f"{self._path}/head")).text)

    async def append(self, commit: Commit, expected: Head) -> Head:
        encoded = encode_commit(commit)
        said = {"Expected-Head": wire.encode_head(expected)}
        try:
            answer = await self._client.call("POST", f"{self._path}/log", content=encoded, headers=said)
        except BlocksMissingError as error:  # others than these are none of its business
            raise BlocksMissingError(str(error), sorted({*error.blocks} & {*commit.added})) from None
        head = wire.decode_head(answer.text)
        if head != Head(commit.number, plain_hash(encoded)):
            raise CorruptError(f"the hub says that it took another commit than number {commit.number}")
        return head

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        params: dict[str, str | int] = {"after": number, "limit": limit}
        most = wire.MAX_COMMITS + wire.MAX_COMMIT
        answer = await self._client.call("GET", f"{self._path}/log", params=params, most=most)
        found: list[tuple[Commit, bytes]] = []
        previous: bytes | None = NO_COMMIT if number == 0 else None
        for encoded in wire.decode_commits(answer.content):
            if len(found) == limit:
                raise CorruptError(f"the hub gives more than the {limit} commits that it was asked for")
            commit = decode_commit(encoded)
            if commit.number != number + 1 or previous not in (None, commit.previous):
                raise CorruptError(f"the hub's log does not go on after commit {number}")
            number, previous = commit.number, plain_hash(encoded)
            found.append((commit, previous))
        return found

    async def wait_for_change(self, number: int) -> None:
        await self.wait_for_other(number)

    async def wait_for_other(self, number: int) -> int | None:
        """Return when the newest commit is another one than that number: its number, which is less where the
        hub lost some; None: the hub does not say it."""
        while True:
            again = trio.current_time() + SHORTEST_POLL
            said = self._asked(number)
            answer = await self._client.call("POST", "/v1/wait", said=said, seconds=POLL_SECONDS)
            if answer.status_code == 200 and not self._hears_of_presences_alone(answer):
                return _told(answer, self._drive)
            if answer.status_code == 200 and self._presence_due <= trio.current_time():
                self._presence_due = again  # a commit that comes next is not to wait for that
                continue
            await trio.sleep_until(again)  # long past, unless the hub answers without waiting

    def _asked(self, number: int) -> dict[str, object]:
        mark = None if self._presence is None else self._presence.asked
        marks = {} if mark is None else {"presence": {self._drive: mark}}
        return {"drives": {self._drive: number}, "timeout": POLL_SECONDS, **marks}

    def _hears_of_presences_alone(self, answer: Answer) -> bool:
        """Whether no head is told; of presences is heard who waits for these."""
        marks, drives = answer.said.get("presence"), answer.said.get("drives")
        mark = marks.get(self._drive) if isinstance(marks, dict) else None
        if self._presence is None or type(mark) is not int or mark < 0:
            return False
        self._presence.tell(mark)
        return drives == {}


def _told(answer: Answer, drive: str) -> int | None:
    drives = answer.said.get("drives")
    found = drives.get(drive) if isinstance(drives, dict) else None
    return found if type(found) is int else None


class RemoteRoots:
    """See `backend.upstream.Roots`."""

    def __init__(self, client: HubClient, drive: bytes) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/roots"

    async def put_root(self, name: str, data: bytes) -> None:
        await self._client.call("PUT", f"{self._path}/{name}", content=data)

    async def get_root(self, name: str) -> list[bytes]:
        try:
            return [(await self._client.call("GET", f"{self._path}/{name}")).content]
        except NotFoundError:
            return []


class _Usage(NamedTuple):
    """The hub's account of a drive: how many packs lack fragments, too; and the room of the person's account,
    which all drives of it share."""

    blocks: int
    bytes: int
    packs: int
    lacking: int
    quota: int
    left: int


class RemoteHousekeeping:
    """See `backend.upstream.Housekeeping`, of several sessions: what is deleted the hub decides."""

    def __init__(self, client: HubClient, drive: bytes, pending: Callable[[], int]) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/blocks"
        self._pending = pending

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        params: dict[str, str | int] = {"after": after.hex(), "limit": min(limit, wire.MAX_IDS)}
        found = wire.decode_ids((await self._client.call("GET", self._path, params=params)).content)
        if any(block <= before for before, block in pairwise((after, *found))):
            raise CorruptError("the hub lists blocks out of their order")
        return found

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        states = await self._states(blocks)
        return [block for block, state in states.items() if state is not None and not state[1]]

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        """The hub did it when it took the commit."""

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        states = await self._states(blocks)
        return {block: state[0] for block, state in states.items() if state is not None}

    async def _states(self, blocks: Sequence[BlockId]) -> dict[BlockId, tuple[int, bool] | None]:
        found: dict[BlockId, tuple[int, bool] | None] = {}
        for start in range(0, len(blocks), wire.MAX_IDS):
            page = blocks[start : start + wire.MAX_IDS]
            answer = await self._client.call("POST", f"{self._path}/sizes", content=wire.encode_ids(page))
            found |= dict(zip(page, wire.decode_sizes(answer.content, len(page)), strict=True))
        return found

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        return CompactionReport()

    async def redundancy(self, patience: float) -> Shortfall:
        """Of the hub's nodes a device knows no names."""
        usage: _Usage | None = None
        with trio.move_on_after(patience) as waiting:
            usage = await self._usage()
            while usage.lacking:
                await trio.sleep(_PAUSE)
                before, usage = usage, await self._usage()
                if usage.lacking < before.lacking:
                    waiting.deadline = trio.current_time() + patience
        if usage is None:
            raise AwayError(f"the hub does not answer within {patience:g} s")
        return Shortfall(usage.lacking)

    async def status(self) -> StoreStatus:
        usage = await self._usage()
        return StoreStatus(
            blocks=usage.blocks,
            block_bytes=usage.bytes,
            packs=usage.packs,
            stored_bytes=usage.bytes,
            pending_bytes=self._pending(),
            packs_to_repair=usage.lacking,
            capacity=Capacity(
                total=usage.quota,
                free=usage.left,
                available=usage.left,
                storable=usage.left,
                storable_in_need=usage.left,
            ),
        )

    async def _usage(self) -> _Usage:
        answer = await self._client.call("GET", f"{self._path.removesuffix('/blocks')}/usage")
        try:
            return _Usage(*(wire.decode_number(str(answer.said[name])) for name in _Usage._fields))
        except (KeyError, FormatError):
            raise TransientError("the hub does not say what is stored") from None
