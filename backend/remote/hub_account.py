"""Calls of a hub about an account: sign-up, login, second factor, devices, drives. Nothing is opened here.

Spec: docs/format/hub_api.md. What the hub answers is checked for its form, and believed for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from backend import wire
from backend.errors import CorruptError
from backend.remote.account_drives import MAX_DRIVES
from backend.remote.hub_client import HubClient
from backend.remote.remote_import import RemoteDeparture, RemoteImport
from backend.wire import Credential, NewLogin, Proof, SecretCost

_MAX_NUMBER: Final = 2**63 - 1
_MAX_DEVICES: Final = 10_000
_MAX_TEXT: Final = 1024
_UUID_SIZE: Final = 16


class AccountSummary(NamedTuple):
    """The account, as its hub says; moments in seconds since 1970, the rest in bytes. `token_is_due`: this
    device is to ask for another token."""

    email: str
    created: int
    has_factor: bool
    device: int
    token_is_due: bool
    quota: int
    used: int
    kept: int
    left: int


class SealedDevice(NamedTuple):
    """A device; `revoked` is 0 while it is not. The name may be empty. `expires`: the end of its token, if
    the hub hears nothing of it until then."""

    number: int
    name: bytes
    created: int
    seen: int
    expires: int
    revoked: int


class SealedDrive(NamedTuple):
    """A drive; name and key are sealed. `bytes`: that it takes; `is_importing`: it is being moved to the
    hub, or from it (`has_left`: and is open on its nodes, `is_leaving`: and is open nowhere). `nodes`: the id
    of those that its newest mover named; empty: none has, or the hub is an older one, which does not say."""

    uuid: bytes
    sealed: bytes
    bytes: int
    head: int
    is_importing: bool = False
    is_leaving: bool = False
    has_left: bool = False
    nodes: wire.NodesId = b""


class HubAccount:
    """See the module. Each call raises what `HubClient.call` does, and `CorruptError` for an answer that has
    not the form."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    async def sign_up(self, email: str, credentials: Mapping[str, Credential], invitation: str) -> None:
        """`ConflictError`: the address has an account; `UsageError`: the hub does not take it."""
        said: dict[str, Any] = {"email": email, "invitation": invitation}
        await self._client.call("POST", "/v1/accounts", said=said | _credentials(credentials))

    async def start(self, email: str, kind: str) -> SecretCost:
        """The way to stretch the secret, as the hub says: whoever stretches has limits of its own."""
        answer = await self._said("POST", "/v1/login/start", {"email": email, "kind": kind})
        numbers = (_whole(answer, name) for name in SecretCost._fields[1:])
        return SecretCost(_octets(answer, "salt", wire.KEY_SIZE), *numbers)

    async def finish(self, email: str, proof: Proof) -> NewLogin:
        """`WrongKeyError`, `FactorNeededError`, `ThrottledError`, `ReadOnlyError`."""
        answer = await self._said("POST", "/v1/login/finish", {"email": email} | _proof(proof))
        token = _octets(answer, "token", wire.TOKEN_SIZE)
        return NewLogin(token, _whole(answer, "device"), _octets(answer, "wrapped"))

    async def summary(self) -> AccountSummary:
        """The account of this device."""
        answer = await self._said("GET", "/v1/account")
        numbers = {
            name: _whole(answer, name)
            for name in AccountSummary._fields
            if name not in ("email", "has_factor", "token_is_due")
        }
        return AccountSummary(
            email=_text(answer, "email"),
            has_factor=answer.get("has_factor") is True,
            token_is_due=answer.get("token_is_due") is True,
            **numbers,
        )

    async def change(self, proof: Proof, credentials: Mapping[str, Credential]) -> None:
        """These open the account in the place of those of their kinds."""
        said = {"proof": _proof(proof)} | _credentials(credentials)
        await self._client.call("PUT", "/v1/account/login", said=said)

    async def delete(self, proof: Proof) -> None:
        """The account ends."""
        await self._client.call("DELETE", "/v1/account", said=_proof(proof))

    async def begin_factor(self, proof: Proof) -> tuple[str, str]:
        """Secret and URI of a second factor that is to be confirmed. `ConflictError`: there is one."""
        answer = await self._said("POST", "/v1/account/factor", _proof(proof))
        return _text(answer, "secret"), _text(answer, "uri")

    async def confirm_factor(self, code: str) -> None:
        """`WrongKeyError`: it is none of its codes."""
        await self._client.call("PUT", "/v1/account/factor", said={"code": code})

    async def end_factor(self, proof: Proof) -> None:
        """Logins ask for no code any more."""
        await self._client.call("DELETE", "/v1/account/factor", said=_proof(proof))

    async def devices(self) -> list[SealedDevice]:
        """All, revoked ones too."""
        answer = await self._said("GET", "/v1/devices")
        return [
            SealedDevice(
                _whole(row, "number"),
                _octets(row, "name"),
                _whole(row, "created"),
                _whole(row, "seen"),
                _whole(row, "expires"),
                0 if row.get("revoked") is None else _whole(row, "revoked"),
            )
            for row in _rows(answer, "devices", _MAX_DEVICES)
        ]

    async def name_device(self, number: int, name: bytes) -> None:
        """`NotFoundError`: the account has no such device."""
        await self._client.call("PATCH", f"/v1/devices/{number}", said={"name": name.hex()})

    async def revoke(self, number: int) -> None:
        """Idempotent. `NotFoundError`: the account has no such device."""
        await self._client.call("DELETE", f"/v1/devices/{number}")

    async def rotate(self, number: int) -> bytes:
        """Another token of this device, which counts from its first use."""
        return _octets(await self._said("POST", f"/v1/devices/{number}/rotate"), "token", wire.TOKEN_SIZE)

    def use_token(self, token: bytes) -> None:
        """From now on the calls show this token."""
        self._client.use_token(token)

    async def drives(self) -> list[SealedDrive]:
        """All of the account."""
        answer = await self._said("GET", "/v1/drives")
        return [
            SealedDrive(
                _octets(row, "uuid", _UUID_SIZE),
                _octets(row, "sealed"),
                _whole(row, "bytes"),
                _whole(row, "head"),
                row.get("importing") is True,
                row.get("departure") == 1,
                row.get("departure") == 2,
                _octets(row, "nodes") if "nodes" in row else b"",
            )
            for row in _rows(answer, "drives", MAX_DRIVES)
        ]

    async def add_drive(self, drive: bytes, sealed: bytes, ticket: bytes = b"") -> None:
        """A new drive; with a `ticket` one that is moved to the hub (`RemoteImport`). `ConflictError`: there
        is one of that id."""
        said = {"uuid": drive.hex(), "sealed": sealed.hex()} | ({"ticket": ticket.hex()} if ticket else {})
        await self._client.call("POST", "/v1/drives", said=said)

    async def take_over_import(self, drive: bytes, ticket: bytes, nodes: bytes) -> None:
        """See `RemoteImport.take_over`."""
        await RemoteImport(self._client, drive, ticket).take_over(nodes)

    async def stop_departure(self, drive: bytes, ticket: bytes, nodes: bytes) -> None:
        """The drive is open again, and no mover before to the nodes of that id counts. `ConflictError`: it
        has left, or is moved to others."""
        departure = RemoteDeparture(self._client, drive, ticket)
        await departure.begin(nodes, over=True)
        await departure.stay()

    async def end_departure(self, drive: bytes, ticket: bytes, nodes: bytes) -> None:
        """The drive, which is being moved to the nodes of that id, has left, and no mover before counts.
        `ConflictError`: as of `stop_departure`."""
        departure = RemoteDeparture(self._client, drive, ticket)
        await departure.begin(nodes, over=True)
        await departure.leave()

    async def seal_drive(self, drive: bytes, sealed: bytes) -> None:
        """The drive's name and key are sealed so. `NotFoundError`."""
        await self._client.call("PATCH", f"/v1/drives/{drive.hex()}", said={"sealed": sealed.hex()})

    async def delete_drive(self, drive: bytes) -> None:
        """`NotFoundError`: there is none, or not any more."""
        await self._client.call("DELETE", f"/v1/drives/{drive.hex()}")

    async def _said(self, method: str, path: str, said: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return (await self._client.call(method, path, said=said)).said


def _credentials(credentials: Mapping[str, Credential]) -> dict[str, Any]:
    return {
        kind: {
            **each.cost._asdict(),
            "salt": each.cost.salt.hex(),
            "auth_key": each.auth_key.hex(),
            "wrapped": each.wrapped.hex(),
        }
        for kind, each in credentials.items()
    }


def _proof(proof: Proof) -> dict[str, Any]:
    return {"kind": proof.kind, "auth_key": proof.auth_key.hex(), "code": proof.code}


def _octets(said: Mapping[str, Any], name: str, size: int | None = None) -> bytes:
    found = said.get(name)
    try:
        data = bytes.fromhex(found if isinstance(found, str) else "?")
    except ValueError:
        raise CorruptError(f"the hub's answer has no {name}") from None
    if len(data) > wire.MAX_SEALED or size not in (None, len(data)):
        raise CorruptError(f"the hub's answer has a {name} of {len(data)} bytes")
    return data


def _whole(said: Mapping[str, Any], name: str) -> int:
    found = said.get(name)
    if type(found) is not int or not 0 <= found <= _MAX_NUMBER:
        raise CorruptError(f"the hub's answer has no {name}")
    return found


def _text(said: Mapping[str, Any], name: str) -> str:
    found = said.get(name)
    if not isinstance(found, str) or len(found) > _MAX_TEXT:
        raise CorruptError(f"the hub's answer has no {name}")
    return found


def _rows(said: Mapping[str, Any], name: str, most: int) -> list[Mapping[str, Any]]:
    found = said.get(name)
    if not isinstance(found, list) or len(found) > most:
        raise CorruptError(f"the hub's answer has no {name}")
    if not all(isinstance(row, dict) for row in found):
        raise CorruptError(f"the hub's answer has no {name}")
    return found
