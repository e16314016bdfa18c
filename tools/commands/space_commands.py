"""`drivefs du`: what a file or folder takes, with its history (docs/retention.md)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cache.messages import USAGE, UsageAsked, UsageShown
from tools.commands.subcommand import add_command, add_json, show
from tools.drive_path import DrivePath
from tools.quantities import format_size
from tools.terminal import printable_name

DU_COLUMNS: Final = ("items", "logical", "unique", "compressed", "with parity", "history adds")


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    du = add_command(commands, "du", "what a file or folder takes, with its history", _du)
    du.add_argument("path", metavar="PATH")
    du.add_argument(
        "--depth", type=_depth, default=1, metavar="N", help="list folders so deep (1); 0: only PATH itself"
    )
    add_json(du)


def _du(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    client = place.client()
    client.sync(place.mountpoint, None)
    answer = client.call(USAGE, UsageAsked(os.lstat(options.path).st_ino, options.depth))
    return show(answer, options.json, _du_lines(options.path, answer))


def _depth(text: str) -> int:
    if not text.isdecimal() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"'{text}' is no depth; give a number from 0 on")
    return int(text)


def _du_lines(path: str, answer: UsageShown) -> Iterator[str]:
    yield _du_line(DU_COLUMNS, "path")
    for folder in (*answer.folders, answer):
        live, history = folder.live, folder.history
        sizes = (folder.logical, live.plain, live.sealed, live.stored, history.stored)
        inside = printable_name(folder.path)
        columns = (str(folder.inodes), *map(format_size, sizes))
        yield _du_line(columns, os.path.join(path, inside) if inside else path)


def _du_line(columns: Sequence[str], path: str) -> str:
    return "".join(f"{text:>13}" for text in columns) + f"  {path}"
