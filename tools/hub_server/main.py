"""The console script `drivefs-hub`. Exit codes as of `drivefs`: 0; 1 failure, or something that `check`
found; 2 usage."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from backend.failpoints import OF_PROCESS
from tools import errors
from tools.errors import COMMAND_CODES, MissingSystemError

EXTRA: Final = frozenset({"prometheus_client", "psycopg", "psycopg_pool", "pyotp", "starlette", "uvicorn"})
"""The packages of `drivefs[hub]` without which nothing goes."""


def main() -> None:
    """The console script."""
    errors.run("drivefs-hub", COMMAND_CODES, hub)


def hub(arguments: Sequence[str]) -> int:
    """The command; its exit code is 0 or what the subcommand says, or that of the error that is raised."""
    try:
        command = import_module("tools.hub_server.command")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise MissingSystemError(
            f"{error.name} is not installed: pip install 'drivefs[hub]' brings what a hub needs"
        ) from None
    OF_PROCESS.arm_from_environment()
    options = command.parser().parse_args(arguments)
    code: int = options.command(options)
    return code
