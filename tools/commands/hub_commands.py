"""`drivefs devices` and `drivefs drives`: the devices and the drives of the account at a hub.

The hub has their names sealed: they are opened here, and what this account has not sealed has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from backend.keys import check_name
from backend.system import THIS_MACHINE
from tools.commands.subcommand import add_command, add_json
from tools.errors import Parser
from tools.hub.account_session import NamedDevice, NamedDrive
from tools.hub.drives import Address
from tools.hub.login import add_hub, chosen_login, in_session, logins
from tools.quantities import counted, format_moment, format_size
from tools.terminal import say, say_json

_NAMELESS: Final = "(no name)"


def register(commands: Any) -> None:
    """Add `devices ...` and `drives ...` to the subcommands of `drivefs`."""
    devices = _actions(commands, "devices", "the devices of the account: list, rename, revoke, rotate")
    add_json(_add(devices, "list", "all devices, revoked ones too", _list_devices))
    rename = _add(devices, "rename", "give a device another name", _rename_device)
    _add_number(rename)
    rename.add_argument("name", metavar="NAME")
    _add_number(_add(devices, "revoke", "shut a device out, at once", _revoke))
    _add(devices, "rotate", "another token for this machine", _rotate)
    drives = _actions(commands, "drives", "the drives of the account: list, create, rename, delete")
    add_json(_add(drives, "list", "all drives", _list_drives))
    _add(drives, "create", "a new, empty drive", _create).add_argument("name", metavar="NAME")
    renamed = _add(drives, "rename", "give a drive another name", _rename_drive)
    renamed.add_argument("old", metavar="OLD", help="its name, or its id")
    renamed.add_argument("new", metavar="NEW")
    delete = _add(drives, "delete", "take a drive from all devices, for good", _delete)
    delete.add_argument("name", metavar="NAME", help="its name, or its id")


def _actions(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text)
    return parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)


def _add(actions: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    parser = add_command(actions, name, text, run)
    add_hub(parser)
    return parser


def _add_number(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("number", metavar="N", type=int, help="its number in `devices list`")


# Devices


def _list_devices(options: argparse.Namespace) -> int:
    found = in_session(chosen_login(options), lambda session: session.devices())
    if options.json:
        say_json({"devices": [asdict(each) for each in found]})
    else:
        say(*map(_device_line, found))
    return 0


def _device_line(device: NamedDevice) -> str:
    verb = "expires" if device.expires > THIS_MACHINE.wall_clock() // 10**9 else "expired"
    state = f"seen {_moment(device.seen)}, {verb} {_moment(device.expires)}"
    if device.revoked:
        state = f"revoked {_moment(device.revoked)}"
    elif device.is_this:
        state = "this machine"
    return f"{device.number:>6}  {device.name or _NAMELESS:<24}  since {_moment(device.created)}  {state}"


def _rename_device(options: argparse.Namespace) -> int:
    name = check_name(options.name)
    in_session(chosen_login(options), lambda session: session.name_device(options.number, name))
    say(f"device {options.number}: is named {name} now")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    in_session(login, lambda session: session.revoke(options.number))
    if options.number == login.device:
        logins().remove(login.url)
    say(f"device {options.number}: revoked; what it has read of keys and contents it still has")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    login = in_session(chosen_login(options), lambda session: session.rotate(logins()))
    say(f"{login.url}: this machine has another token, and its mounts go on with it")
    return 0


# Drives


def _list_drives(options: argparse.Namespace) -> int:
    found = in_session(chosen_login(options), lambda session: session.drives())
    if options.json:
        say_json({"drives": [each.plain() for each in found]})
    else:
        say(*map(_drive_line, found))
    return 0


def _drive_line(drive: NamedDrive) -> str:
    size, commits = format_size(drive.bytes), counted(drive.head, "commit")
    state = f"  ({_closed_state(drive)})" if drive.is_importing else ""
    return f"{drive.name or _NAMELESS:<24}  {size:>9}  {commits:>12}  {drive.uuid.hex()}{state}"


def _closed_state(drive: NamedDrive) -> str:
    if drive.has_left:
        return "has moved to nodes of its own"
    return "is being moved to nodes of its own" if drive.is_leaving else "is being moved here"


def _create(options: argparse.Namespace) -> int:
    login = chosen_login(options)
    in_session(login, lambda session: session.create_drive(options.name))
    source = Address(login.url, options.name).source
    say(f"{options.name}: a new drive; mount it: mount.drivefs {source} MOUNTPOINT")
    return 0


def _rename_drive(options: argparse.Namespace) -> int:
    in_session(chosen_login(options), lambda session: session.rename_drive(options.old, options.new))
    say(f"{options.old}: is named {options.new} now")
    return 0


def _delete(options: argparse.Namespace) -> int:
    in_session(chosen_login(options), lambda session: session.delete_drive(options.name))
    say(f"{options.name}: deleted; its room is free, and nothing brings it back")
    return 0


def _moment(seconds: int) -> str:
    return format_moment(seconds * 10**9)
