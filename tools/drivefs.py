"""`drivefs`: look at a running mount, at a drive's past, and at what a drive needs.

Each subcommand is registered by a module of `tools.commands`. Importing a module takes ten times as long as
an answer of a mount. So only the module of the given subcommand is imported. Without a known subcommand every
module is: help and usage errors list all subcommands.
Exit codes: 0; 1 failure, or something that `doctor` found; 2 usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Final

from backend import failpoints
from backend.failpoints import OF_PROCESS
from tools import errors
from tools.errors import COMMAND_CODES, Parser

MODULES: Final = {
    "mount_commands": ("status", "sync", "umount"),
    "doctor_command": ("doctor",),
    "history_commands": ("log", "diff", "restore", "clone"),
    "activity_command": ("activity",),
    "space_commands": ("du",),
    "retention_commands": ("retention", "gc"),
    "pin_commands": ("pin", "unpin", "pins"),
    "conflict_commands": ("conflicts",),
    "notice_commands": ("notices", "undo"),
    "watch_command": ("watch",),
    "keeping_commands": ("keep", "unkeep", "kept"),
    "node_commands": ("check", "scrub", "repair", "node", "rebuild-drive-file"),
    "key_commands": ("key",),
    "device_commands": ("device",),
    "stale_commands": ("stale",),
    "s3_commands": ("s3",),
    "account_commands": ("login", "logout", "account"),
    "hub_commands": ("devices", "drives"),
    "move_command": ("move-to",),
    "accept_command": ("accept-restore",),
}
"""The subcommands that each module registers."""


def main() -> None:
    """The console script."""
    errors.run("drivefs", COMMAND_CODES, drivefs)


def drivefs(arguments: Sequence[str]) -> int:
    """The command; its exit code is 0 or what the subcommand says, or that of the error that is raised."""
    asked = [module for module, names in MODULES.items() if arguments and arguments[0] in names]
    # Failpoints are declared by what is imported, and a test sets those of a mount for all its commands.
    parser = parser_of(MODULES if failpoints.are_wanted() else asked or MODULES)
    OF_PROCESS.arm_from_environment()
    options = parser.parse_args(arguments)
    code: int = options.command(options)
    return code


def parser_of(modules: Iterable[str]) -> Parser:
    """The parser that knows the subcommands of these modules."""
    parser = Parser(prog="drivefs", description="Look at a mounted drivefs drive.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for module in modules:
        import_module(f"tools.commands.{module}").register(commands)
    return parser
