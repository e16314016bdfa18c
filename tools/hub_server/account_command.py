"""`drivefs-hub account` and `quota`: the accounts of a hub, as its operator sees them."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from backend.errors import UsageError
from backend.hub import Accounts, AccountSummary, Database, Operator, Pepper
from tools.errors import Parser
from tools.hub_server.opening import HubFolder, add_hub, database_of, folder_of, run
from tools.quantities import counted, format_size, parse_size
from tools.terminal import say, say_json

Result = TypeVar("Result")
_MOST: Final = 2**62


def register(commands: Any) -> None:
    """Add `account` and `quota`."""
    account = commands.add_parser("account", help="accounts: add, list, lock, unlock, delete")
    actions = account.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    listed = _add(actions, "list", "all accounts", _list)
    listed.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    for name, text, command in (
        ("add", "invite an address: prints the code by which it may sign up", _invite),
        ("lock", "nobody logs in, and its devices get nothing", _lock),
        ("unlock", "the end of that", _unlock),
        ("delete", "the account ends, its devices and drives with it", _delete),
    ):
        _add(actions, name, text, command).add_argument("email", metavar="ADDRESS")
    quota = _add(commands, "quota", "what an account may store; with BYTES: another", _quota)
    quota.add_argument("email", metavar="ADDRESS")
    quota.add_argument("bytes", metavar="BYTES", nargs="?", help="for example 50G")


def _add(commands: Any, name: str, text: str, command: Callable[[argparse.Namespace], int]) -> Parser:
    parser: Parser = commands.add_parser(name, help=text)
    parser.set_defaults(command=command)
    add_hub(parser)
    return parser


def _with_database(folder: HubFolder, work: Callable[[Database], Awaitable[Result]]) -> Result:
    async def ask() -> Result:
        async with database_of(folder) as database:
            return await work(database)

    return run(ask())


def _invite(options: argparse.Namespace) -> int:
    folder = folder_of(options)
    pepper = Pepper(folder.secret(folder.file.pepper_file))

    async def invite(database: Database) -> str:
        return await Accounts(database, pepper, is_open=False).invite(options.email)

    say(f"{options.email} may sign up with the invitation {_with_database(folder, invite)}")
    return 0


def _list(options: argparse.Namespace) -> int:
    found = _with_database(folder_of(options), lambda database: Operator(database).accounts())
    if options.json:
        say_json({"accounts": [asdict(each) for each in found]})
    else:
        say(*map(_line, found))
    return 0


def _line(account: AccountSummary) -> str:
    state = "  locked" if account.is_locked else "  invited" if account.is_invited else ""
    parts = (counted(account.drives, "drive"), counted(account.devices, "device"), _room(account))
    return f"{account.email}  {'  '.join(parts)}{state}"


def _room(account: AccountSummary) -> str:
    return f"{format_size(account.bytes)} of {format_size(account.quota)}"


def _lock(options: argparse.Namespace) -> int:
    _with_database(folder_of(options), lambda database: Operator(database).lock(options.email))
    say(f"{options.email}: locked")
    return 0


def _unlock(options: argparse.Namespace) -> int:
    _with_database(folder_of(options), lambda database: Operator(database).unlock(options.email))
    say(f"{options.email}: not locked")
    return 0


def _delete(options: argparse.Namespace) -> int:
    _with_database(folder_of(options), lambda database: Operator(database).delete(options.email))
    say(f"{options.email}: deleted")
    return 0


def _quota(options: argparse.Namespace) -> int:
    size = None if options.bytes is None else parse_size(options.bytes)
    if size is not None and size > _MOST:
        raise UsageError(f"{options.bytes}: more than a quota can be")

    async def change(database: Database) -> AccountSummary:
        if size is not None:
            await Operator(database).set_quota(options.email, size)
        return await Operator(database).account(options.email)

    say(f"{options.email}: {_room(_with_database(folder_of(options), change))}")
    return 0
