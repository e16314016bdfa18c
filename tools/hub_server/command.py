"""The command line of `drivefs-hub`. Each subcommand is a module beside this one."""

from __future__ import annotations

from typing import Final

from tools.errors import Parser
from tools.hub_server import (
    account_command,
    check_command,
    init_command,
    migrate_command,
    node_command,
    serve_command,
)

MODULES: Final = (
    init_command,
    migrate_command,
    serve_command,
    check_command,
    node_command,
    account_command,
)


def parser() -> Parser:
    """The parser that knows all subcommands."""
    parser = Parser(prog="drivefs-hub", description="Serve drives to many devices.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for module in MODULES:
        module.register(commands)
    return parser
