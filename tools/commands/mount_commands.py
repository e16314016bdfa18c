"""`drivefs status`, `sync` and `umount`: a running mount, asked through its control socket."""

from __future__ import annotations

import argparse
from typing import Any

from cache.messages import to_plain
from tools import errors, umount
from tools.commands.status_report import is_well, report
from tools.commands.subcommand import add_json
from tools.control_client import ControlClient
from tools.quantities import parse_duration
from tools.terminal import complain, say, say_json


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    status = commands.add_parser("status", help="what is stored and what is not yet; the nodes' state")
    status.add_argument("mountpoint", metavar="MOUNTPOINT")
    add_json(status)
    status.set_defaults(command=_status)
    sync = commands.add_parser("sync", help="return when all that was written so far is stored")
    sync.add_argument("mountpoint", metavar="MOUNTPOINT")
    sync.add_argument("--timeout", type=parse_duration, metavar="S", help="give up waiting after this time")
    sync.set_defaults(command=_sync)
    unmount = commands.add_parser("umount", help="as umount.drivefs: store everything, then unmount")
    unmount.add_argument("mountpoint", metavar="MOUNTPOINT")
    unmount.add_argument("--timeout", metavar="S", help="give up (and stay mounted) after this time")
    unmount.set_defaults(command=_umount)


def _status(options: argparse.Namespace) -> int:
    status = ControlClient.of_mount(options.mountpoint).status()
    if options.json:
        say_json(to_plain(status))
    else:
        say(*report(status).split("\n"))
    return 0 if is_well(status) else 1


def _sync(options: argparse.Namespace) -> int:
    synced = ControlClient.of_mount(options.mountpoint).sync(options.mountpoint, options.timeout)
    for line in filter(None, synced):
        complain(f"drivefs: {options.mountpoint}: all is stored, but {line}")
    return errors.SHORT if synced.short else 0


def _umount(options: argparse.Namespace) -> int:
    timeout = [] if options.timeout is None else ["--timeout", options.timeout]
    return umount.umount([*timeout, "--", options.mountpoint])
