"""`drivefs move-to --undo`: a move that was interrupted, in either direction, is settled under the lease of
the nodes: the drive is open at one place then, and the hub knows where.

Nodes that are lost have no lease. Then a person says (`--force`) that nobody has opened the drive there.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import trio

from backend.cluster import DriveFile, HeldDrive, check_nodes
from backend.errors import NotFoundError, TransientError, UsageError
from backend.remote import BegunMoves
from tools import compose, fsck, old_drive
from tools.commands import node_changes
from tools.compose import UnlockedDrive
from tools.host import places
from tools.hub.account_session import AccountSession, NamedDrive, account_session
from tools.hub.departures import Departures
from tools.hub.drives import Address
from tools.hub.login import in_session, logins
from tools.hub_address import is_at_hub
from tools.terminal import complain, say


def undo(options: argparse.Namespace) -> int:
    """The command."""
    if is_at_hub(options.drive):
        return _without_nodes(Address.parse(options.drive), is_forced=options.force)
    if options.force:
        raise UsageError("--force opens a drive at a hub: drivefs move-to --undo --force https://HUB/NAME")
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    file = survey.file
    has_come = not file.moved and bool(compose.load_drive(folder).moved)
    if not file.moved and not has_come:
        return _here(folder, file, options)
    old_drive.require_unused(folder, file)
    drive = compose.unlock_moved(folder, file, fsck.secret_source(options).secrets())
    if has_come:
        node_changes.finish(drive)
        say(f"{folder}: the drive has come here; mount it")
        _tell(folder, file)
    else:
        node_changes.run(partial(_settled, is_deleted=options.deleted), drive)
    return 0


# The drive is open on its nodes


def _here(folder: str, file: DriveFile, options: argparse.Namespace) -> int:
    """All that can be left of a move is that the hub does not know that the drive has left."""
    if options.address is None:
        if not _tell(folder, file):
            raise UsageError(
                f"{folder}: the drive has not moved; if a hub says that it is being moved here, name it: "
                f"drivefs move-to --undo https://HUB/NAME {folder}"
            )
        return 0
    address = Address.parse(options.address)
    old_drive.require_unused(folder, file)
    drive = compose.unlock(folder, file, fsck.secret_source(options).secrets())
    node_changes.run(_told_by_holder, drive, address)
    say(_told(address.source, folder))
    return 0


def _tell(folder: str, file: DriveFile) -> bool:
    """Tell the hub that this machine has moved the drive from, if that was left; whether it was."""
    source = node_changes.run(Departures(folder, file, _state(file.id), os.environ).tell)
    if source:
        say(_told(source, folder))
    return bool(source)


def _state(drive: bytes) -> Path:
    return Path(places.state_folder(drive.hex(), None, os.environ))


def _told(source: str, folder: str) -> str:
    return f"{source}: tells other devices that the drive has moved to nodes ({folder})"


async def _told_by_holder(drive: UnlockedDrive, address: Address) -> None:
    """Nobody else moves the drive while this has the lease of its nodes."""
    async with node_changes.held_drive(drive) as held, account_session(logins().load(address.hub)) as session:
        if not await _is_leaving(session, held.file.id, address.source):
            raise UsageError(f"{address.source}: does not say that the drive is being moved from there")
        await session.end_departure(held.file.id, held.file.nodes_id)


# The drive is open nowhere


async def _settled(drive: UnlockedDrive, *, is_deleted: bool) -> None:
    """Nobody who has the lease moves it then, and no request of an earlier mover counts at the hub."""
    login = logins().load(Address.parse(drive.file.moved).hub)
    async with node_changes.held_drive(drive) as held, account_session(login) as session:
        lines, said = await _kept(held, session, is_deleted=is_deleted)
    for line in lines:
        complain(f"drivefs: warning: {line}")
    say(said)


async def _is_leaving(session: AccountSession, drive: bytes, source: str) -> bool:
    """As `AccountSession.is_leaving`; a hub that does not answer is named."""
    try:
        return await session.is_leaving(drive)
    except TransientError as error:
        raise TransientError(
            f"{source}: only the hub can say whether it has opened the drive already, and has to be "
            f"asked first: {error}; nothing was changed: try again when it answers"
        ) from None


async def _kept(held: HeldDrive, session: AccountSession, *, is_deleted: bool) -> tuple[list[str], str]:
    """Have the drive where it was before the move; warnings, and what is so now. `is_deleted`: somebody says
    that it was deleted at the hub."""
    folder, file = held.folder, held.file
    if await _is_leaving(session, file.id, file.moved):
        lines = await held.stay_away()
        await session.stop_departure(file.id, file.nodes_id)
        await trio.to_thread.run_sync(BegunMoves(_state(file.id)).forget)
        return lines, f"{file.moved}: the drive is there, and has not moved to {folder}; mount it as before"
    try:
        await session.stop_import(file.id, file.nodes_id)
    except NotFoundError:
        if not is_deleted:
            raise UsageError(
                f"{file.moved}: the account of this machine has no such drive there, and another account may "
                "have it open: log in to that one. If the drive was deleted there: --undo --deleted. "
                "Nothing was changed"
            ) from None
    return await held.come_back(), f"{folder}: the drive is here, and has not moved; mount it as before"


# The nodes are lost


def _without_nodes(address: Address, *, is_forced: bool) -> int:
    """Have the drive open at the hub, by a person's word alone."""
    in_session(logins().load(address.hub), partial(_opened_again, address, is_forced))
    say(f"{address.source}: the drive is open there again; never mount the nodes that it was to move to")
    return 0


async def _opened_again(address: Address, is_forced: bool, session: AccountSession) -> None:
    found = await session.find_drive(address.name)
    if found.drive is None:
        raise UsageError(f"{address.source}: this account has not sealed its key")
    if not found.is_leaving:
        raise UsageError(f"{address.source}: {_why_not(found)}")
    if not is_forced:
        raise UsageError(f"{address.source}: {_at_stake(found)}")
    await session.stop_departure(found.uuid, found.nodes)


def _why_not(found: NamedDrive) -> str:
    if found.has_left:
        return (
            "the drive was opened on its nodes, and what was written there is not here; a mount with -o ro "
            "shows it as it was before"
        )
    return "the drive is not being moved from there to nodes"


def _at_stake(found: NamedDrive) -> str:
    return (
        f"the drive was closed there at commit {found.head}, and nobody has said that it is open on its "
        "nodes. If they are there: drivefs move-to --undo FOLDER looks whether it is, and loses nothing. If "
        f"they are lost for good, --force opens the drive as of commit {found.head}. What was written on the "
        "nodes, if somebody has mounted them, is lost then. And nobody may still be moving the drive, or "
        "mount these nodes ever again: the drive would be open at two places. Nothing was changed"
    )
