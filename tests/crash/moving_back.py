"""A process that uses a drive at a hub and has it moved to nodes meanwhile, to be killed in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from backend.coding import Profile
from backend.health import NodesWanted
from backend.keys import DriveKeys
from backend.remote import HubLogin, HubRoute, Logins
from backend.system import THIS_MACHINE
from cache.drive import Drive
from tests.crash import moving
from tests.crash.moving import NAME, variables
from tests.crash.node_changes import BUSY, change
from tests.drives import make_file
from tests.small_drive import SmallDrive
from tools import new_drive, new_nodes
from tools.host import places
from tools.host.places import Folders
from tools.hub.account_session import NamedDrive, account_session
from tools.hub.care import HubNodes
from tools.hub.drives import Address
from tools.hub.moving_back import MovingBack
from tools.hub.opening import DriveAtHub, opened_drive_at_hub
from tools.new_drive import Origin
from tools.secret_source import SecretSource

DIRECT: Final = HubRoute()


async def named(login: HubLogin) -> NamedDrive:
    """The drive at the hub."""
    async with account_session(login) as session:
        return await session.find_drive(NAME)


async def at_hub(made: SmallDrive, login: HubLogin) -> DriveAtHub:
    """The same, with its keys."""
    found = await named(login)
    assert found.drive is not None
    source = Address(login.url, NAME).source
    keys, logins = DriveKeys(found.drive.key, found.uuid), Logins(places.hubs_folder(variables(made)))
    return DriveAtHub(source, login, found.uuid, keys, logins)


async def make_nodes(made: SmallDrive, login: HubLogin) -> None:
    """What `drivefs move-to --to-local` does before it asks the mount, in a folder where nothing is."""
    found, folder = await named(login), str(made.drive)
    assert found.drive is not None
    origin = Origin(found.uuid, found.drive.key, Address(login.url, NAME).source)
    secrets = SecretSource.chosen({}, None, str(made.folder / "key"), None).secrets()
    profile = Profile.parse("2+1")
    at = new_nodes.node_places(folder, None, None, profile.total)
    new_drive.write(folder, new_drive.described(folder, profile, at, origin, secrets), None, None)


def folders_of(made: SmallDrive, drive_id: bytes, name: str = "") -> Folders:
    """Those of a device: of this machine, or of another with that name."""
    own = drive_id.hex()
    return Folders(made.cache / name / own, made.state / name / own)


@asynccontextmanager
async def in_use_at_hub(made: SmallDrive, login: HubLogin, name: str = "") -> AsyncIterator[Drive]:
    """The drive at the hub, published often, on this machine or on another; it can be asked to move."""
    at = await at_hub(made, login)
    own = folders_of(made, at.drive_id, name)
    opening = opened_drive_at_hub(at, own, replace(BUSY, is_shared=True), DIRECT)
    async with opening as drive, trio.open_nursery() as nursery:
        assert isinstance(drive.node_changes, HubNodes)
        drive.node_changes.let_leave(MovingBack(drive, at, own, variables(made), THIS_MACHINE))
        await nursery.start(drive.run)
        yield drive
        nursery.cancel_scope.cancel()


async def move_drive_back(made: SmallDrive, drive: Drive) -> str:
    """Have the drive moved to its nodes while it is used; what went wrong."""
    return await change(drive, NodesWanted(verb="move-to", names=(str(made.drive),)))


async def move_back(made: SmallDrive, login: HubLogin, extra: bytes = b"") -> str:
    """Use the drive, and have it moved; what went wrong. `extra`: a file that is written before."""
    async with in_use_at_hub(made, login) as drive:
        if extra:
            await make_file(drive, extra, extra * 1000)
        return await move_drive_back(made, drive)


def main(folder: str, url: str) -> None:
    """As `moving.main`, the other way."""
    moving.main(folder, url, move_back)
