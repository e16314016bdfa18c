"""`drivefs-hub account`: the accounts of a hub, as its operator sees them."""

from __future__ import annotations

import argparse
from typing import Any

from backend.hub import AccountSummary, Operator
from tools.errors import Parser
from tools.hub_server.opening import add_hub, database_of, folder_of, run
from tools.quantities import format_size
from tools.terminal import say


def register(commands: Any) -> None:
    """Add `account`."""
    account = commands.add_parser("account", help="accounts: list")
    actions = account.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    listed: Parser = actions.add_parser("list", help="all accounts")
    listed.set_defaults(command=_list)
    add_hub(listed)


def _list(options: argparse.Namespace) -> int:
    async def ask() -> list[AccountSummary]:
        async with database_of(folder_of(options)) as database:
            return await Operator(database).accounts()

    for each in run(ask()):
        say(f"{each.email}  {each.drives} drives  {each.devices} devices  {format_size(each.bytes)}")
    return 0
