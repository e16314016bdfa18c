"""`drivefs watch`: others' changes of a folder, as they come."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from cache.messages import RESCAN, Watched, to_plain
from tools.commands.subcommand import add_command
from tools.drive_path import DrivePath
from tools.terminal import printable_name, say


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    watch = add_command(commands, "watch", "others' changes of a folder, as they come", _watch)
    watch.add_argument("path", metavar="FOLDER")
    watch.add_argument("--json", action="store_true", help="each line a JSON object, for programs")


def _watch(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    for change in place.client().watch(os.lstat(options.path).st_ino):
        say(json.dumps(to_plain(change)) if options.json else _line(change, place.mountpoint))
    return 0


def _line(change: Watched, mountpoint: str) -> str:
    if change.change == RESCAN:
        return "rescan      anything may have changed"
    maker = "this device" if change.here else f"device {change.device or 'unknown'}"
    return f"{change.change:<10}  {os.path.join(mountpoint, printable_name(change.path))}  ({maker})"
