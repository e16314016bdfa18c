"""`drivefs activity`: what happened on a drive, and on which device, the newest first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from cache.messages import ACTIVITY, Activity, HappenedShown, PathAsked, PointShown
from tools.commands.subcommand import add_command, add_json, show
from tools.drive_path import DrivePath
from tools.quantities import format_local
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
    place = DrivePath(options.path)
    answer = place.client().call(ACTIVITY, PathAsked(place.inside, options.limit))
    return show(answer, options.json, _lines(answer))


def _lines(answer: Activity) -> Iterator[str]:
    if not answer.points:
        yield "no published change is known there"
    for point in answer.points:
        yield from _point_lines(point)


def _point_lines(point: PointShown) -> Iterator[str]:
    yield f"{format_local(point.time_ns)}  {printable_name(point.host or '')}".rstrip()
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
