"""`drivefs-hub migrate`: bring the database to the schema of this version."""

from __future__ import annotations

import argparse
from typing import Any

from backend.hub import migrate_database
from tools.errors import Parser
from tools.hub_server.opening import add_hub, folder_of, run
from tools.terminal import say


def register(commands: Any) -> None:
    """Add `migrate`."""
    parser: Parser = commands.add_parser("migrate", help="bring the database to this version's schema")
    parser.set_defaults(command=_migrate)
    add_hub(parser)


def _migrate(options: argparse.Namespace) -> int:
    applied = run(migrate_database(folder_of(options).file.database))
    say(f"migrations applied: {', '.join(map(str, applied))}" if applied else "nothing to migrate")
    return 0
