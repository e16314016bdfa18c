"""The presences of a drive on a hub. That others' have changed is told by the poll of its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from backend import wire
from backend.remote.hub_client import HubClient
from backend.upstream import SealedPresence


class RemotePresence:
    """See `backend.upstream.PresenceBoard`."""

    def __init__(self, client: HubClient, drive: bytes) -> None:
        self._client = client
        self._path = f"/v1/drives/{drive.hex()}/presence"
        self._is_wanted: Callable[[], bool] = lambda: False
        self._mark = 0
        self._news = trio.Event()

    async def show(self, shown: Sequence[SealedPresence]) -> None:
        await self._client.call("PUT", self._path, content=wire.encode_presences(shown))

    async def of_others(self) -> list[SealedPresence]:
        most = wire.MAX_IDS * wire.PRESENCE_BYTES
        answer = await self._client.call("GET", self._path, most=most)
        return wire.decode_presences(answer.content, wire.MAX_IDS)

    def listen(self, is_wanted: Callable[[], bool]) -> None:
        self._is_wanted = is_wanted

    async def wait_for_news(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    @property
    def asked(self) -> int | None:
        """The mark that a poll is to name, of what was told last; None: it names none."""
        return self._mark if self._is_wanted() else None

    def tell(self, mark: int) -> None:
        """The hub shows others than it did."""
        self._mark = mark
        self._news.set()
