"""Which login at a hub a command works with, and what it needs to prove who asks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import trio

from backend.errors import UsageError
from backend.keys import Secret
from backend.remote import HubLogin, Logins
from backend.system import THIS_MACHINE
from tools.host import places
from tools.hub.account_session import AccountSession, account_session
from tools.secret_source import SecretSource, ask_hidden, one_line

Result = TypeVar("Result")
_WHICH: Final = "this machine has logins at several hubs: say which by --hub"


def logins() -> Logins:
    """Those that this machine keeps."""
    return Logins(places.hubs_folder(os.environ), THIS_MACHINE)


def add_hub(parser: argparse.ArgumentParser) -> None:
    """The option that names the hub."""
    parser.add_argument("--hub", metavar="URL", help="needed if this machine has logins at several hubs")


def chosen_login(options: argparse.Namespace) -> HubLogin:
    """The login at the hub that was named, or the only one. `NotFoundError`, `UsageError`."""
    if options.hub is not None:
        return logins().load(options.hub)
    found = logins().all()
    if not found:
        raise UsageError("this machine is logged in at no hub: drivefs login URL")
    if len(found) > 1:
        raise UsageError(f"{_WHICH} ({', '.join(login.url for login in found)})")
    return found[0]


def in_session(login: HubLogin, work: Callable[[AccountSession], Coroutine[Any, Any, Result]]) -> Result:
    """The result of `work` with the account of the login."""

    async def main() -> Result:
        async with account_session(login) as session:
            return await work(session)

    return trio.run(main)


def add_proof(parser: argparse.ArgumentParser) -> None:
    """The options by which a secret of the account is given."""
    add = parser.add_argument
    add("--passphrase-file", metavar="F", help="its only line is the account's passphrase, or recovery key")
    add("--passphrase-command", metavar="C", help="the command's output is it")
    add("--code-file", metavar="F", help="its only line is a code of the second factor")


def secrets(options: argparse.Namespace) -> list[Secret]:
    """The secrets that may be meant, in the order to try them."""
    source = SecretSource.chosen(os.environ, options.passphrase_file, None, options.passphrase_command)
    return source.secrets()


def code(options: argparse.Namespace, prompt: str = "Code of the second factor: ") -> str:
    """A code of the second factor: from the file, or the person. `UsageError`."""
    text = one_line(options.code_file) if options.code_file else ask_hidden(prompt)
    return "".join(text.split())
