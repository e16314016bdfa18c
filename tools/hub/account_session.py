"""An account at a hub, used by its owner: what is sealed is sealed and opened here.

Calls of the hub are `HubAccount`'s, and raise what these do. On trio; secrets are stretched in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import trio

from backend.errors import (
    ConflictError,
    CorruptError,
    FactorNeededError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
    WrongKeyError,
)
from backend.keys import (
    DRIVE_ID_SIZE,
    AccountKeys,
    Argon2Cost,
    HubDrive,
    LoginKeys,
    Secret,
    Stretching,
    login_keys,
    new_account_root,
    new_drive_key,
    new_stretching,
)
from backend.remote import (
    AccountSummary,
    Credential,
    HubAccount,
    HubClient,
    HubLogin,
    HubRoute,
    KeptToken,
    Logins,
    Proof,
    SecretCost,
)
from backend.system import THIS_MACHINE, Environment
from backend.wire import TICKET_SIZE, NodesId
from tools.closing import closed_at_end

NO_TOKEN: Final = b""
_ON_OTHERS: Final = (
    "the drive is on other nodes, or a move of it from or to other nodes has begun; nothing was opened here: "
    "mount the folder of those, or settle the move with that"
)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Where a hub is, and how it is reached."""

    url: str
    route: HubRoute

    @asynccontextmanager
    async def account(self, token: bytes) -> AsyncIterator[HubAccount]:
        """The calls of the device of that token."""
        client = HubClient(self.url, token, self.route)
        async with closed_at_end(client):
            yield HubAccount(client)


@dataclass(frozen=True, slots=True)
class NamedDevice:
    """A device; without a name it has not said one yet, or one that this account has not sealed."""

    number: int
    name: str | None
    created: int
    seen: int
    expires: int
    revoked: int
    is_this: bool


@dataclass(frozen=True, slots=True)
class NamedDrive:
    """A drive; None for what this account has not sealed. `is_importing`: it is being moved here, or as
    of `SealedDrive` from here."""

    uuid: bytes
    drive: HubDrive | None = field(repr=False)
    bytes: int
    head: int
    is_importing: bool = False
    is_leaving: bool = False
    has_left: bool = False
    nodes: NodesId = b""

    @property
    def name(self) -> str | None:
        """For people."""
        return self.drive.name if self.drive else None

    def plain(self) -> dict[str, str | int | None]:
        """For programs: without its key."""
        return {"name": self.name, "id": self.uuid.hex(), "bytes": self.bytes, "commits": self.head}


async def sign_up(place: HubPlace, email: str, passphrase: Secret, recovery: Secret, invitation: str) -> None:
    """A new account, which either secret opens. Errors as of `HubAccount.sign_up`."""
    root = new_account_root()
    credentials: dict[str, Credential] = {}
    for each in (passphrase, recovery):
        credentials[each.kind] = await _credential(each, root)
    async with place.account(NO_TOKEN) as account:
        await account.sign_up(email, credentials, invitation)


async def log_in(place: HubPlace, email: str, secrets: Sequence[Secret], code: Callable[[], str]) -> HubLogin:
    """A new device, which has no name yet: its login is to be kept first. `secrets`: in the order to try
    them; `code`: asks for one of the second factor. Errors as of `HubAccount.finish`."""
    async with place.account(NO_TOKEN) as account:
        keys, made = await _proved(account, email, secrets, code, partial(account.finish, email))
    root = keys.unwrap(made.wrapped)
    ca_file, proxy = place.route.ca_file or "", place.route.proxy or ""
    return HubLogin(place.url, email, made.token, root, made.device, ca_file, proxy)


class AccountSession:
    """The account of a login. See the module."""

    def __init__(self, login: HubLogin, account: HubAccount, environment: Environment = THIS_MACHINE) -> None:
        self._login = login
        self._account = account
        self._keys = AccountKeys(login.account_root)
        self._environment = environment

    async def summary(self) -> AccountSummary:
        """The account, as its hub says."""
        return await self._account.summary()

    async def devices(self) -> list[NamedDevice]:
        """All, revoked ones too."""
        return [
            NamedDevice(
                row.number,
                self._device_name(row.number, row.name),
                row.created,
                row.seen,
                row.expires,
                row.revoked,
                row.number == self._login.device,
            )
            for row in await self._account.devices()
        ]

    def _device_name(self, number: int, sealed: bytes) -> str | None:
        with suppress(CorruptError, FormatError):
            return self._keys.open_device(number, sealed)
        return None

    async def name_device(self, number: int, name: str) -> None:
        """`UsageError`: it is no name; `NotFoundError`: the account has no such device."""
        await self._account.name_device(number, self._keys.seal_device(number, name))

    async def revoke(self, number: int) -> None:
        """The device is shut out. `NotFoundError`."""
        await self._account.revoke(number)

    async def rotate(self, logins: Logins) -> HubLogin:
        """As `KeptToken.replace`."""
        return await KeptToken(logins, self._login).replace(self._account)

    async def drives(self) -> list[NamedDrive]:
        """All."""
        return [
            NamedDrive(row.uuid, self._drive(row.uuid, row.sealed), row.bytes, row.head, *row[4:])
            for row in await self._account.drives()
        ]

    def _drive(self, uuid: bytes, sealed: bytes) -> HubDrive | None:
        with suppress(CorruptError, FormatError):
            return self._keys.open_drive(uuid, sealed)
        return None

    async def create_drive(self, name: str) -> bytes:
        """A new, empty drive with a key of its own; its id. `UsageError`: that is no name, or another's."""
        uuid, drive = self._environment.random_bytes(DRIVE_ID_SIZE), HubDrive(name, new_drive_key())
        sealed = self._keys.seal_drive(uuid, drive)
        await self._require_free(name)
        await self._account.add_drive(uuid, sealed)
        return uuid

    async def receive_drive(self, uuid: bytes, name: str, key: Callable[[], bytes]) -> None:
        """Have the drive of that id, by that name, ready to be moved here; `key` gives its drive key, if it
        is new here. Safe to repeat. `UsageError`: it is here already, or has another name here, or another
        drive has the name."""
        found = next((each for each in await self.drives() if each.uuid == uuid), None)
        if found is None:
            await self._require_free(name)
            sealed = self._keys.seal_drive(uuid, HubDrive(name, key()))
            await self._account.add_drive(uuid, sealed, self._environment.random_bytes(TICKET_SIZE))
        elif not found.is_importing:
            raise UsageError(f"the account has this drive already, as {found.name}")
        elif found.name != name:
            raise UsageError(f"the drive is being moved here as {found.name}: go on with that name")

    async def stop_import(self, uuid: bytes, nodes: bytes) -> None:
        """Whoever moves the drive of that id here from the nodes of that id is shut out. `UsageError`: it is
        open already, or on other nodes; `NotFoundError`: the account has no such drive."""
        row = next((each for each in await self._account.drives() if each.uuid == uuid), None)
        if row is None:
            raise NotFoundError("the account has no drive of this id")
        if not row.is_importing:
            raise UsageError(
                "the drive is open at the hub: mount it there, this is a part of it or an old state"
            )
        if row.has_left:
            raise UsageError(_ON_OTHERS)
        with _told_of_others():
            ticket = self._environment.random_bytes(TICKET_SIZE)
            await self._account.take_over_import(uuid, ticket, nodes)

    async def is_leaving(self, uuid: bytes) -> bool:
        """Whether the drive of that id is closed, and on its way to nodes."""
        return any(row.uuid == uuid and row.is_leaving for row in await self._account.drives())

    async def stop_departure(self, uuid: bytes, nodes: bytes) -> None:
        """Whoever moves the drive of that id away to the nodes of that id is shut out, and it is open here
        again. `UsageError`: it is moved to others."""
        with _told_of_others():
            ticket = self._environment.random_bytes(TICKET_SIZE)
            await self._account.stop_departure(uuid, ticket, nodes)

    async def end_departure(self, uuid: bytes, nodes: bytes) -> None:
        """The hub says from now on that the drive of that id, which it says is on its way to the nodes of
        that id, has left. `UsageError`: it is moved to others."""
        with _told_of_others():
            ticket = self._environment.random_bytes(TICKET_SIZE)
            await self._account.end_departure(uuid, ticket, nodes)

    async def rename_drive(self, old: str, new: str) -> None:
        """`NotFoundError`: there is none of that name (or id); `UsageError`: as of `create_drive`."""
        found = await self.find_drive(old)
        if found.drive is None:
            raise CorruptError(f"{old}: this account has not sealed its key, so it cannot be sealed anew")
        sealed = self._keys.seal_drive(found.uuid, replace(found.drive, name=new))
        await self._require_free(new)
        await self._account.seal_drive(found.uuid, sealed)

    async def delete_drive(self, name: str) -> None:
        """All devices lose it. `NotFoundError`."""
        await self._account.delete_drive((await self.find_drive(name)).uuid)

    async def find_drive(self, name: str) -> NamedDrive:
        """The drive of that name, or of that id (32 hexadecimal digits). `NotFoundError`; `UsageError`: two
        have the name."""
        found = [each for each in await self.drives() if name in (each.name, each.uuid.hex())]
        if not found:
            raise NotFoundError(f"the account has no drive {name}")
        if len(found) > 1:
            ids = ", ".join(each.uuid.hex() for each in found)
            raise UsageError(f"{len(found)} drives are named {name}: say which by its id ({ids})")
        return found[0]

    async def _require_free(self, name: str) -> None:
        if name in [each.name for each in await self.drives()]:
            raise UsageError(f"the account has a drive {name} already")

    async def change(self, secrets: Sequence[Secret], new: Secret, code: Callable[[], str]) -> None:
        """`new` opens the account in the place of the one of its kind. Errors as of `log_in`."""
        credential = await _credential(new, self._login.account_root)
        await self._proved(secrets, code, lambda proof: self._account.change(proof, {new.kind: credential}))

    async def begin_factor(self, secrets: Sequence[Secret]) -> tuple[str, str]:
        """As `HubAccount.begin_factor`."""
        return await self._proved(secrets, _no_code, self._account.begin_factor)

    async def confirm_factor(self, code: str) -> None:
        """As `HubAccount.confirm_factor`."""
        await self._account.confirm_factor(code)

    async def end_factor(self, secrets: Sequence[Secret], code: Callable[[], str]) -> None:
        """As `HubAccount.end_factor`."""
        await self._proved(secrets, code, self._account.end_factor)

    async def delete(self, secrets: Sequence[Secret], code: Callable[[], str]) -> None:
        """The account ends, with its drives. Errors as of `log_in`."""
        await self._proved(secrets, code, self._account.delete)

    async def _proved(
        self,
        secrets: Sequence[Secret],
        code: Callable[[], str],
        call: Callable[[Proof], Awaitable[Result]],
    ) -> Result:
        _, answer = await _proved(self._account, self._login.email, secrets, code, call)
        return answer


@contextmanager
def _told_of_others() -> Iterator[None]:
    try:
        yield
    except ConflictError:
        raise UsageError(_ON_OTHERS) from None


@asynccontextmanager
async def account_session(login: HubLogin) -> AsyncIterator[AccountSession]:
    """The account of a login, while the block runs."""
    async with HubPlace(login.url, login.route).account(login.token) as account:
        yield AccountSession(login, account)


async def is_logged_in(login: HubLogin) -> bool:
    """Whether the hub knows the device still."""
    async with account_session(login) as session:
        try:
            await session.summary()
        except ReadOnlyError:
            return False
    return True


async def _proved(
    account: HubAccount,
    email: str,
    secrets: Sequence[Secret],
    code: Callable[[], str],
    call: Callable[[Proof], Awaitable[Result]],
) -> tuple[LoginKeys, Result]:
    """The keys of the first secret that is right, each stretched as the hub says, and the answer to a call
    that asks for one of the account. `WrongKeyError`: none is right."""
    secret = secrets[0]
    salt, *cost = await account.start(email, secret.kind)
    stretching = Stretching(salt, Argon2Cost(*cost))
    keys = await trio.to_thread.run_sync(login_keys, secret, stretching)
    try:
        return keys, await _with_code(Proof(secret.kind, keys.auth_key), code, call)
    except WrongKeyError:
        if len(secrets) == 1:
            raise
        return await _proved(account, email, secrets[1:], code, call)


async def _with_code(
    proof: Proof, code: Callable[[], str], call: Callable[[Proof], Awaitable[Result]]
) -> Result:
    """The answer; once more with a code if the account asks for one."""
    try:
        return await call(proof)
    except FactorNeededError:
        return await call(replace(proof, code=code()))


def _no_code() -> str:
    raise UsageError("the account has a second factor already")


async def _credential(secret: Secret, root: bytes) -> Credential:
    stretching = new_stretching()
    keys = await trio.to_thread.run_sync(login_keys, secret, stretching)
    cost = stretching.cost
    said = SecretCost(stretching.salt, cost.memory_kib, cost.iterations, cost.lanes)
    return Credential(said, keys.auth_key, keys.wrap(root))
