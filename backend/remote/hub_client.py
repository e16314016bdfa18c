"""Calls of a hub over HTTPS: one connection pool, and the hub's answers as our errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from backend.errors import (
    BlocksMissingError,
    ConflictError,
    CorruptError,
    DriveError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
)

_PROBLEM: Final = "urn:drivefs:"
_KINDS: Final[Mapping[str, type[DriveError]]] = {
    "moved": ConflictError,
    "malformed": FormatError,
    "full": NoSpaceError,
    "not_found": NotFoundError,
    "read_only": ReadOnlyError,
    "unauthorised": ReadOnlyError,
}
_LATER: Final = frozenset((429, 500, 502, 503, 504))
PATIENCE: Final = 30.0
CONNECT_PATIENCE: Final = 10.0


class HubClient:
    """See the module. `url` of the hub, `token` of the device. Any number of tasks at once."""

    def __init__(self, url: str, token: bytes, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token.hex()}"},
            transport=transport,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        seconds: float = 0.0,
    ) -> httpx.Response:
        """The answer to one request. `TransientError`: none came, or the hub asks to come again; the request
        may have been done. Any other answer that is no success is the error that it names. `seconds`: so
        long the hub is asked to wait before it answers."""
        timeout = httpx.Timeout(PATIENCE + seconds, connect=CONNECT_PATIENCE, pool=None)
        try:
            response = await self._client.request(
                method, path, content=content, params=params, headers=headers, json=json, timeout=timeout
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise TransientError(f"the hub does not answer: {error or type(error).__name__}") from error
        if response.is_success:
            return response
        raise _error(response)

    async def close(self) -> None:
        """Let go of all connections. Idempotent."""
        await self._client.aclose()


def _error(response: httpx.Response) -> DriveError:
    if response.status_code in _LATER:
        return TransientError(f"the hub says {response.status_code}")
    said = _said(response)
    kind = str(said.get("type", "")).removeprefix(_PROBLEM)
    detail = f"the hub says: {said.get('detail', response.status_code)}"
    if kind == "blocks_missing":
        return BlocksMissingError(detail, _blocks(said.get("blocks")))
    return _KINDS.get(kind, CorruptError)(detail)


def _said(response: httpx.Response) -> Mapping[str, Any]:
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _blocks(said: object) -> list[bytes]:
    """The blocks that the hub says it lacks, as far as they are some."""
    if not isinstance(said, list):
        return []
    try:
        return [block for block in map(bytes.fromhex, said) if len(block) == 32]
    except (TypeError, ValueError):
        return []
