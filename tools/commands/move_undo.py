"""`drivefs move-to --undo`: a move that was interrupted, in either direction, is settled under the lease of
the nodes: the drive is open at one place then.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

from backend.cluster import DriveFile, HeldDrive, check_nodes
from backend.errors import NotFoundError, TransientError, UsageError
from tools import compose, fsck, old_drive
from tools.commands import node_changes
from tools.compose import UnlockedDrive
from tools.hub.account_session import AccountSession, account_session
from tools.hub.drives import Address
from tools.hub.login import logins
from tools.terminal import complain, say


def undo(options: argparse.Namespace) -> int:
    """The command."""
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    has_come = not survey.file.moved and bool(compose.load_drive(folder).moved)
    if not survey.file.moved and not has_come:
        raise UsageError(f"{folder}: the drive has not moved")
    old_drive.require_unused(folder, survey.file)
    drive = compose.unlock_moved(folder, survey.file, fsck.secret_source(options).secrets())
    if has_come:
        node_changes.finish(drive)
        say(f"{folder}: the drive has come here; mount it")
    else:
        node_changes.run(partial(_settled, is_deleted=options.deleted), drive)
    return 0


async def _settled(drive: UnlockedDrive, *, is_deleted: bool) -> None:
    """Nobody who has the lease moves it then, and no request of an earlier mover counts at the hub."""
    login = logins().load(Address.parse(drive.file.moved).hub)
    async with node_changes.held_drive(drive) as held, account_session(login) as session:
        lines, said = await _kept(held, session, is_deleted=is_deleted)
    for line in lines:
        complain(f"drivefs: warning: {line}")
    say(said)


async def _is_leaving(session: AccountSession, file: DriveFile) -> bool:
    """As `AccountSession.is_leaving`; a hub that does not answer is named."""
    try:
        return await session.is_leaving(file.id)
    except TransientError as error:
        raise TransientError(
            f"{file.moved}: only the hub can say whether it has opened the drive already, and has to be "
            f"asked first: {error}; nothing was changed: try again when it answers"
        ) from None


async def _kept(held: HeldDrive, session: AccountSession, *, is_deleted: bool) -> tuple[list[str], str]:
    """Have the drive where it was before the move; warnings, and what is so now. `is_deleted`: somebody says
    that it was deleted at the hub."""
    folder, file = held.folder, held.file
    if await _is_leaving(session, file):
        lines = await held.stay_away()
        await session.stop_departure(file.id, file.nodes_id)
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
