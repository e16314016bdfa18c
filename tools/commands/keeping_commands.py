"""`drivefs keep`, `unkeep`, `kept`: folders whose content stays on this machine's disk."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from cache.messages import KEEP, KEPT, UNKEEP, KeepWanted, Kept, Nothing, UnkeepWanted
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.drive_path import DrivePath
from tools.quantities import format_size
from tools.terminal import printable_name


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    keep = add_command(commands, "keep", "keep a folder's content on this machine's disk", _keep)
    keep.add_argument("path", metavar="FOLDER")
    keep.add_argument("--wait", action="store_true", help="until all of it is here, or cannot be had now")
    unkeep = add_command(commands, "unkeep", "let a kept folder's content go when room is needed", _unkeep)
    unkeep.add_argument("path", metavar="FOLDER")
    kept = add_command(commands, "kept", "the folders that are kept here, and how much of each is", _kept)
    kept.add_argument("mountpoint", metavar="MOUNTPOINT")
    for command in (keep, unkeep, kept):
        add_json(command)


def _keep(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    answer = place.client().call(KEEP, KeepWanted(os.lstat(options.path).st_ino, options.wait))
    return show(answer, options.json, _lines(place.mountpoint, answer))


def _unkeep(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    answer = place.client().call(UNKEEP, UnkeepWanted(os.lstat(options.path).st_ino))
    return show(answer, options.json, _lines(place.mountpoint, answer))


def _kept(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, KEPT, Nothing())
    return show(answer, options.json, _lines(options.mountpoint, answer))


def _lines(mountpoint: str, answer: Kept) -> Iterator[str]:
    if not answer.folders:
        yield "no folder is kept here"
    for folder in answer.folders:
        inside = printable_name(folder.path)
        here = f"{format_size(folder.here)} of {format_size(folder.bytes)}"
        yield f"{here:>24}  {os.path.join(mountpoint, inside) if inside else mountpoint}"
    if answer.problem:
        yield f"the rest is not here: {answer.problem}"
