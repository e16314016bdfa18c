"""A process that uses a drive and has it moved to a hub meanwhile, to be killed in the middle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import trio

from backend.errors import DriveError
from backend.failpoints import OF_PROCESS
from backend.health import NodesWanted
from backend.remote import HubLogin, Logins
from backend.system import THIS_MACHINE
from cache.drive import Drive
from tests.crash.node_changes import change, in_use
from tests.drives import make_file
from tests.small_drive import SmallDrive
from tools import compose
from tools.host import places
from tools.hub.account_session import account_session
from tools.hub.drives import Address
from tools.hub.moving import Moving
from tools.mounted_nodes import MountedNodes
from tools.secret_source import SecretSource

NAME: Final = "moved"
ROOT: Final = bytes(range(32))


def variables(made: SmallDrive) -> Mapping[str, str]:
    """Those of a process on the machine of the drive: its logins are found by them."""
    return {"DRIVEFS_STATE_DIR": str(made.state)}


def log_in(made: SmallDrive, url: str, token: bytes) -> HubLogin:
    """The machine has that device's login at the hub."""
    login = HubLogin(url, "me@example.org", token, ROOT, 1)
    Logins(places.hubs_folder(variables(made))).save(login)
    return login


async def receive(made: SmallDrive, login: HubLogin) -> None:
    """What `drivefs move-to` does before it asks the mount."""
    file = compose.load_drive(str(made.drive))
    secrets = SecretSource.chosen({}, None, str(made.folder / "key"), None).secrets()
    async with account_session(login) as session:
        await session.receive_drive(file.id, NAME, lambda: compose.drive_key(file, secrets))


async def move(made: SmallDrive, login: HubLogin, extra: bytes = b"") -> str:
    """Use the drive, and have it moved; what went wrong. `extra`: a file that is written before, unless it is
    there."""
    async with in_use(made) as drive:
        if extra:
            await make_file(drive, extra, extra * 1000)
        return await move_drive(made, drive, login)


async def move_drive(made: SmallDrive, drive: Drive, login: HubLogin) -> str:
    """Have the drive moved while it is used; what went wrong."""
    assert isinstance(drive.node_changes, MountedNodes)
    drive.node_changes.let_leave(Moving(drive, variables(made), THIS_MACHINE))
    await receive(made, login)
    return await change(drive, NodesWanted(verb="move-to", names=(Address(login.url, NAME).source,)))


def main(folder: str, url: str, live: Callable[[SmallDrive, HubLogin, bytes], Awaitable[str]] = move) -> None:
    """The process: the drive in `folder`, the hub whose login it has, and failpoints as the environment
    says. `live`: what it does, as `move`."""
    OF_PROCESS.arm_from_environment()
    made = SmallDrive(Path(folder), {})
    login = Logins(places.hubs_folder(variables(made))).load(url)
    problem = trio.run(live, made, login, b"begun")
    if problem:
        raise DriveError(problem)
