"""`drivefs login`, `logout` and `account`: this machine as a device of an account at a hub.

A passphrase is asked for at the terminal, or comes from a file or a command; it never leaves this machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from backend.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
    ThrottledError,
    TransientError,
    UsageError,
    WrongKeyError,
)
from backend.keys import Secret, check_name, new_recovery_key
from backend.remote import AccountSummary, HubLogin, HubRoute, hub_url
from backend.system import THIS_MACHINE
from tools.commands.subcommand import add_command, add_json
from tools.errors import Parser
from tools.host import mounts
from tools.hub.account_session import (
    AccountSession,
    HubPlace,
    NamedDevice,
    NamedDrive,
    is_logged_in,
    log_in,
    sign_up,
)
from tools.hub.login import add_hub, add_proof, chosen_login, code, in_session, logins, secrets
from tools.hub_address import proxy_url
from tools.quantities import format_moment, format_size
from tools.secret_source import SecretSource, one_line
from tools.terminal import complain, is_terminal, say, say_json


def register(commands: Any) -> None:
    """Add `login`, `logout` and `account ...` to the subcommands of `drivefs`."""
    login = add_command(commands, "login", "make this machine a device of an account at a hub", _login)
    _add_place(login)
    add_proof(login)
    logout = add_command(commands, "logout", "end this machine's login at a hub", _logout)
    add_hub(logout)
    logout.add_argument("--forget", action="store_true", help="here only, without asking the hub")
    account = commands.add_parser("account", help="the account at a hub: make, look at, change, delete")
    actions = account.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    _add_create(actions)
    for name, text, run in (
        ("show", "address, room, second factor", _show),
        ("passphrase", "another passphrase", _passphrase),
        ("recovery", "another recovery key", _recovery),
        ("totp", "the second factor: codes of an app", _totp),
        ("export", "all that the hub knows of the account, as JSON", _export),
        ("delete", "end the account, with its drives", _delete),
    ):
        parser = add_command(actions, name, text, run)
        add_hub(parser)
        _ADD_MORE.get(name, _add_nothing)(parser)


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    """No more options."""


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    add_proof(parser)
    new = parser.add_mutually_exclusive_group()
    new.add_argument("--new-passphrase-file", metavar="F")
    new.add_argument("--new-passphrase-command", metavar="C")


def _add_recovery(parser: argparse.ArgumentParser) -> None:
    add_proof(parser)
    parser.add_argument("--recovery-file", metavar="F", help="write the recovery key to this new file")


def _add_totp(parser: argparse.ArgumentParser) -> None:
    add_proof(parser)
    parser.add_argument("action", choices=("on", "confirm", "off"), help="on: confirm it by a code then")


def _add_delete(parser: argparse.ArgumentParser) -> None:
    add_proof(parser)
    parser.add_argument("email", metavar="EMAIL", help="the account's address, so that it is no slip")


_ADD_MORE = {
    "show": add_json,
    "passphrase": _add_passphrase,
    "recovery": _add_recovery,
    "totp": _add_totp,
    "delete": _add_delete,
}


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="https://HUB")
    add("--email", metavar="ADDRESS", help="of the account; asked for at the terminal")
    add(
        "--name",
        metavar="NAME",
        default=platform.node() or "device",
        help="of this device; default: its host",
    )
    add("--ca-file", metavar="F", help="believe these certificates instead of the system's")
    add("--proxy", metavar="URL", help="without a password; default: as HTTPS_PROXY and its like say")


def _add_create(actions: Any) -> None:
    create = add_command(actions, "create", "sign up at a hub, and log in", _create)
    _add_place(create)
    add = create.add_argument
    add("--passphrase-file", metavar="F", help="its only line is to be the passphrase")
    add("--passphrase-command", metavar="C", help="the command's output is to be it")
    add("--recovery-file", metavar="F", help="write the recovery key to this new file")
    add("--invitation-file", metavar="F", help="its only line is the code of an invitation")


# Logging in and out


def _login(options: argparse.Namespace) -> int:
    place = _place(options)
    email = options.email or _asked_email()
    _keep(trio.run(log_in, place, email, secrets(options), partial(code, options)), options.name)
    return 0


def _place(options: argparse.Namespace) -> HubPlace:
    """`UsageError` if this machine is logged in there. A login that cannot be used is none."""
    check_name(options.name)
    url = hub_url(options.url)
    try:
        login = logins().load(url)
    except (NotFoundError, CorruptError, FormatError):
        login = None
    if login is not None and trio.run(is_logged_in, login):
        raise UsageError(f"this machine is logged in at {url} as {login.email}: drivefs logout --hub {url}")
    ca_file = os.path.abspath(options.ca_file) if options.ca_file else None
    proxy = proxy_url(options.proxy) if options.proxy else None
    return HubPlace(url, HubRoute(ca_file, proxy))


def _asked_email() -> str:
    if not is_terminal(sys.stdin):
        raise UsageError("no terminal to ask at: say the account by --email")
    try:
        return input("E-mail address of the account: ").strip()
    except EOFError:
        raise UsageError("no address was typed") from None


def _keep(login: HubLogin, name: str) -> None:
    """Kept first: a device that nobody can use any more would be left at the hub."""
    logins().save(login)
    in_session(login, lambda session: session.name_device(login.device, name))
    say(f"{login.url}: logged in as {login.email}, device {login.device} ({name})")


def _logout(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    if not options.forget:
        _tell_of_mounts(login.url)
        try:
            if trio.run(is_logged_in, login):
                in_session(login, lambda session: session.revoke(login.device))
        except TransientError as error:
            raise TransientError(f"{error}; --forget ends the login here only") from error
    logins().remove(login.url)
    say(f"{login.url}: logged out")
    if options.forget:
        complain(f"drivefs: the hub was not told; from another device: drivefs devices revoke {login.device}")
    return 0


def _tell_of_mounts(hub: str) -> None:
    """The mounts that the end of the login shuts out."""
    for mount in mounts.drives():
        if mount.source.startswith(f"{hub}/") and mount.owner == os.getuid():
            complain(
                f"drivefs: {mount.mountpoint}: this mount writes nothing more once the device is logged out; "
                "what it has not published stays in its journal, for a mount after the next login"
            )


# The account


def _create(options: argparse.Namespace) -> int:
    place = _place(options)
    recovery = _RecoveryKey(options.recovery_file)
    email = options.email or _asked_email()
    invitation = one_line(options.invitation_file) if options.invitation_file else ""
    source = SecretSource(options.passphrase_file, None, options.passphrase_command)
    passphrase = source.new_secret()
    recovery.write()
    try:
        trio.run(sign_up, place, email, passphrase, recovery.secret, invitation)
    except (ConflictError, UsageError):  # no other tells that there is no such account
        recovery.withdraw()
        raise
    recovery.show()
    _keep(trio.run(log_in, place, email, [passphrase], _no_code), options.name)
    return 0


def _no_code() -> str:
    raise UsageError("a new account has no second factor")


class _RecoveryKey:
    """A new one, and the place that it goes to: a file, else the terminal. `UsageError`: there is none."""

    def __init__(self, path: str | None) -> None:
        if path is None and not is_terminal(sys.stdout):
            raise UsageError("no terminal to show the recovery key at: name a new file by --recovery-file")
        self._path = None if path is None else os.path.abspath(path)
        self._text = new_recovery_key()
        self.secret = Secret.recovery(self._text)

    def write(self) -> None:
        """Before it counts: an account whose recovery key was lost is no better than one without."""
        if self._path is not None:
            THIS_MACHINE.disk.write_file(self._path, [f"{self._text}\n".encode()], exclusive=True)

    def withdraw(self) -> None:
        """It never counted."""
        if self._path is not None:
            THIS_MACHINE.disk.unlink(self._path)

    def show(self) -> None:
        """It counts: this once it is shown."""
        if self._path is None:
            say("Recovery key, to print and keep (it opens the account):", "", f"    {self._text}", "")
        else:
            say(f"{self._path}: the recovery key, which opens the account: keep it elsewhere")


def _show(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    summary = in_session(login, lambda session: session.summary())
    if options.json:
        say_json({"hub": login.url, **summary._asdict()})
        return 0
    factor = "with a second factor" if summary.has_factor else "without a second factor"
    say(f"{summary.email} at {login.url}, since {format_moment(summary.created * 10**9)}, {factor}")
    say(f"{format_size(summary.used)} of {format_size(summary.quota)} used, {format_size(summary.left)} left")
    if summary.kept:
        say(f"{format_size(summary.kept)} that were deleted are not gone yet")
    return 0


def _passphrase(options: argparse.Namespace) -> int:
    login, old = chosen_login(options), secrets(options)
    new = SecretSource(options.new_passphrase_file, None, options.new_passphrase_command).new_secret()
    in_session(login, lambda session: session.change(old, new, partial(code, options)))
    say(f"{login.url}: {login.email} has another passphrase; all devices stay logged in")
    return 0


def _recovery(options: argparse.Namespace) -> int:
    login, recovery = chosen_login(options), _RecoveryKey(options.recovery_file)
    old = secrets(options)
    recovery.write()
    try:
        in_session(login, lambda session: session.change(old, recovery.secret, partial(code, options)))
    except (WrongKeyError, ThrottledError, ReadOnlyError, UsageError):  # any other may have changed it
        recovery.withdraw()
        raise
    recovery.show()
    return 0


def _totp(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    if options.action == "off":
        in_session(login, lambda session: session.end_factor(secrets(options), partial(code, options)))
        say(f"{login.url}: logins ask for no code any more")
        return 0
    if options.action == "on":
        secret, uri = in_session(login, lambda session: session.begin_factor(secrets(options)))
        say("Add this to an app for codes:", "", f"    {secret}", f"    {uri}", "")
        if not is_terminal(sys.stdin):
            say("Then confirm it: drivefs account totp confirm --code-file F")
            return 0
    shown = code(options, "A code of the app: ")
    in_session(login, lambda session: session.confirm_factor(shown))
    say(f"{login.url}: logins ask for a code from now on")
    return 0


def _export(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    summary, devices, drives = in_session(login, _all)
    say_json(
        {
            "hub": login.url,
            **summary._asdict(),
            "devices": [asdict(each) for each in devices],
            "drives": [each.plain() for each in drives],
        }
    )
    return 0


async def _all(session: AccountSession) -> tuple[AccountSummary, list[NamedDevice], list[NamedDrive]]:
    return await session.summary(), await session.devices(), await session.drives()


def _delete(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    if options.email.lower() != login.email.lower():
        raise UsageError(f"the account at {login.url} is {login.email}, and not {options.email}")
    in_session(login, lambda session: session.delete(secrets(options), partial(code, options)))
    logins().remove(login.url)
    say(f"{login.url}: the account {login.email} has ended; its drives will be deleted")
    return 0
