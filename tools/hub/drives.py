"""A drive at a hub by its address, `https://HUB/NAME`: found among those of the account that this machine is
logged in to. The name is sealed under the account root, so the search is made here and not by the hub.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import trio

from backend.errors import (
    BlocksMissingError,
    CorruptError,
    DriveError,
    FormatError,
    NotFoundError,
    TransientError,
    UsageError,
)
from backend.keys import AccountKeys, DriveKeys, HubDrive
from backend.remote import (
    BegunMoves,
    HubLogin,
    HubRoute,
    KnownDrives,
    ListedDrive,
    Logins,
    SealedDrive,
    hub_url,
)
from backend.system import Environment
from tools.host import places
from tools.host.aside import aside
from tools.hub.account_session import HubPlace
from tools.hub.opening import DriveAtHub

PATIENCE: Final = 10.0
"""Seconds within which the hub has to list the drives: this machine remembers them."""
_SHOWN: Final = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """`hub` as `hub_url` gives it, and the name of a drive there."""

    hub: str
    name: str

    @property
    def source(self) -> str:
        """The one way to write it."""
        return f"{self.hub}/{quote(self.name, safe='')}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Of `https://HUB/NAME`; the name may be percent-encoded. `UsageError`: it is none."""
        try:
            parts = urlsplit(text)
        except ValueError:
            raise UsageError(f"{text}: the address of a drive is https://HUB/NAME") from None
        hub = hub_url(f"{parts.scheme}://{parts.netloc}")  # without a password from here on
        name = unquote(parts.path.strip("/"))
        if not name or "/" in name or parts.query or parts.fragment:
            raise UsageError(f"{text}: the address of a drive is https://HUB/NAME")
        return cls(hub, name)


class HubDrives:
    """The drives of the account that this machine has a login of, at the hub of `address`. `NotFoundError`:
    there is none. `variables`: of the process, by which the folder of logins is found. Blocks."""

    def __init__(self, address: Address, variables: Mapping[str, str], environment: Environment) -> None:
        folder = places.hubs_folder(variables)
        self._logins = logins = Logins(folder, environment)
        self._address = address
        self._variables = variables
        self.login: Final = logins.load(address.hub)
        self._known = KnownDrives(logins.folder_of(address.hub), environment)

    def found(self, route: HubRoute, tell: Callable[[str], None], *, read_only: bool = False) -> DriveAtHub:
        """The drive of that name. A process that asks goes into the background later, so another asks. `tell`
        is told that the hub is away: what it said before counts then. `NotFoundError`: the account has no
        drive of that name; `UsageError`: it is still being moved there, or (unless it is opened `read_only`)
        away; `ReadOnlyError`: the hub does not know this device any more; what asking raises."""
        said = aside(partial(_asked, self.login, route))
        if isinstance(said, TransientError):
            known = self._known.load()
            if not known:
                raise said
            tell(f"{said}; the drive is opened as this machine has it")
            return self._named(known)
        if isinstance(said, DriveError):
            raise said
        self._known.keep([ListedDrive(row.uuid, row.sealed) for row in said if not row.is_importing])
        closed = {row.uuid: row for row in said if row.is_importing and not (read_only and _is_whole(row))}
        self._require_open(closed)
        return self._named([ListedDrive(row.uuid, row.sealed) for row in said if row.uuid not in closed])

    def _require_open(self, closed: Mapping[bytes, SealedDrive]) -> None:
        listed = [ListedDrive(row.uuid, row.sealed) for row in closed.values()]
        opened, _ = _opened(AccountKeys(self.login.account_root), listed)
        for uuid, drive in opened.items():
            if drive.name == self._address.name:
                why = _why_closed(closed[uuid], self._begun_to(closed[uuid]))
                raise UsageError(f"{self._address.source}: {why}")

    def _begun_to(self, row: SealedDrive) -> str:
        """The folder to which this machine has begun to move that drive, for people. A note of another move,
        or one that cannot be read, names none."""
        state = places.state_folder(row.uuid.hex(), None, self._variables)
        try:
            move = BegunMoves(Path(state)).load()
        except (CorruptError, FormatError, OSError) as error:
            log.warning("%s", error)
            return "FOLDER"
        return "FOLDER" if move is None or move.nodes != row.nodes else shlex.quote(move.folder)

    def known(self) -> DriveAtHub:
        """The same as this machine knows it; the hub is not asked. `NotFoundError`."""
        return self._named(self._known.load())

    def _named(self, rows: Sequence[ListedDrive]) -> DriveAtHub:
        opened, closed = _opened(AccountKeys(self.login.account_root), rows)
        name, source = self._address.name, self._address.source
        fitting = [uuid for uuid, drive in opened.items() if drive.name == name]
        if len(fitting) > 1:
            raise UsageError(f"{source}: {len(fitting)} drives have this name; give them others first")
        if not fitting:
            names = sorted(drive.name for drive in opened.values())
            raise NotFoundError(f"{source}: the account has no drive of this name{_there(names, closed)}")
        uuid = fitting[0]
        return DriveAtHub(source, self.login, uuid, DriveKeys(opened[uuid].key, uuid), self._logins)


def _is_whole(row: SealedDrive) -> bool:
    """Whether a closed drive can be read there: all that it had before it was moved away is there."""
    return row.is_leaving or row.has_left


def _why_closed(row: SealedDrive, folder: str) -> str:
    if row.has_left:
        return (
            "the drive has moved from there to nodes of its own: mount the folder that it was moved to; as "
            "it was then it can be read here, by a mount with -o ro"
        )
    if row.is_leaving:
        return (
            "the drive is being moved from there to nodes of its own; if that was interrupted, drivefs "
            f"move-to --undo {folder} settles it; it can be read here meanwhile, by a mount with -o ro"
        )
    return "the drive is being moved there (drivefs move-to), and not all of it has come yet"


def _opened(keys: AccountKeys, rows: Sequence[ListedDrive]) -> tuple[dict[bytes, HubDrive], int]:
    """The drives that this account has sealed, and the number of the others: a hub can list anything."""
    opened: dict[bytes, HubDrive] = {}
    for row in rows:
        with suppress(CorruptError, FormatError):
            opened[row.uuid] = keys.open_drive(row.uuid, row.sealed)
    return opened, len(rows) - len(opened)


def _there(names: Sequence[str], closed: int) -> str:
    """The end of a sentence: those that there are."""
    more = ", ..." if len(names) > _SHOWN else ""
    said = f"; there is {', '.join(names[:_SHOWN])}{more}" if names else "; it has none yet"
    return said + (f"; the names of {closed} cannot be opened" if closed else "")


def _asked(login: HubLogin, route: HubRoute) -> list[SealedDrive] | DriveError:
    """The hub's list, or why there is none."""

    async def ask() -> list[SealedDrive]:
        async with HubPlace(login.url, route).account(login.token) as account:
            with trio.fail_after(PATIENCE):
                return await account.drives()

    try:
        return trio.run(ask)
    except trio.TooSlowError:
        return TransientError(f"the hub {login.url} has not answered within {PATIENCE:.0f} s")
    except BlocksMissingError as error:  # nothing was said of blocks; and it cannot be pickled
        return CorruptError(str(error))
    except DriveError as error:
        return error
