"""`drivefs activity`: what happened on a drive, and on which device, the newest first."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, Final

from cache.messages import ACTIVITY, HappenedShown, PathAsked, PointShown
from tools.commands.subcommand import add_command, add_json, show
from tools.drive_path import DrivePath
from tools.errors import ToolError
from tools.terminal import printable_name

MOST_LINES: Final = 20
"""Of one point, for people; programs get more."""


def register(commands: Any) -> None:
    """Add the sub-command to those of `drivefs`."""
    parser = add_command(
        commands, "activity", "what happened below a folder and by whom, the newest first", _activity
    )
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many points (20)")
    add_json(parser)


def _activity(options: argparse.Namespace) -> int:
    if options.limit < 1:
        raise ToolError("--limit must be 1 or more")
    place = DrivePath(options.path)
    answer = place.client().call(ACTIVITY, PathAsked(place.inside, options.limit))
    return show(answer, options.json, (line for point in answer.points for line in _lines(point)))


def _lines(point: PointShown) -> Iterator[str]:
    moment = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(point.time_ns // 10**9))
    yield f"{moment}  {printable_name(point.host or '')}".rstrip()
    yield from map(_line, point.changes[:MOST_LINES])
    more = point.more + len(point.changes[MOST_LINES:])
    if more:
        yield f"  ... and {more:,} more"


def _line(change: HappenedShown) -> str:
    path = printable_name(change.path)
    if change.before is not None:
        path = f"{printable_name(change.before)} -> {path}"
    return f"  {change.kind:<10}  {path}{_inside(change.inside)}"


def _inside(count: int | None) -> str:
    return "" if count is None else f"/ ({count:,} inside)"
