"""`drivefs log`, `diff`, `restore` and `clone`: the past of a mounted drive, from the command line.

Each finds the mount that the path lies in, has the kernel hand over what it holds, and asks the mount
(`cache.messages.history`). A path need not exist any more: deleted things are what one comes for.
"""

from __future__ import annotations

import argparse
import pwd
import stat
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from cache.messages import (
    CLONE,
    DIFF,
    LOG,
    NOW,
    RESTORE,
    Call,
    CloneWanted,
    Difference,
    DifferenceAsked,
    PathAsked,
    PathState,
    RestoreWanted,
)
from cache.past_names import FORMS
from tools.commands.subcommand import add_command, add_json, show
from tools.drive_path import DrivePath
from tools.errors import ToolError
from tools.quantities import format_local, format_size, moment
from tools.terminal import printable_name, say

Question = TypeVar("Question")
Answer = TypeVar("Answer")

KINDS: Final = "A added, D deleted, M another content, P other attributes, T another type"


def register(commands: Any) -> None:
    """Add the sub-commands to those of `drivefs`."""
    log = add_command(commands, "log", "what happened to a file or folder, the newest first", _log)
    log.add_argument("path", metavar="PATH")
    log.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (100)")
    add_json(log)
    diff = add_command(
        commands, "diff", "what changed in a file or tree between two times, or since one", _diff
    )
    diff.epilog = f"Lines begin with {KINDS}."
    diff.add_argument("path", metavar="PATH")
    diff.add_argument("first", type=moment, metavar="TIME", help=f"for example {FORMS}")
    diff.add_argument("second", type=moment, metavar="TIME", nargs="?", help="default: now")
    add_json(diff)
    restore = add_command(commands, "restore", "bring a file or tree back as it was, at once", _restore)
    restore.add_argument("path", metavar="PATH")
    restore.add_argument("--at", type=moment, required=True, metavar="TIME", help=f"for example {FORMS}")
    restore.add_argument("--to", metavar="PATH", help="put it there, and leave what is there now")
    clone = add_command(commands, "clone", "copy a file or tree at once: both share their data", _clone)
    clone.add_argument("source", metavar="SRC")
    clone.add_argument("target", metavar="DST")


def _call(place: DrivePath, call: Call[Question, Answer], question: Question) -> Answer:
    client = place.client()
    client.sync(place.mountpoint, None)
    return client.call(call, question)


def _log(options: argparse.Namespace) -> int:
    if options.limit < 1:
        raise ToolError("--limit must be 1 or more")
    place = DrivePath(options.path)
    answer = _call(place, LOG, PathAsked(place.inside, options.limit))
    return show(answer, options.json, map(_log_line, answer.entries))


def _log_line(entry: PathState) -> str:
    start = f"{entry.name:<22}  {format_local(entry.time_ns)}  @{entry.commit:<7}  {_device(entry):<15}"
    what = ", ".join(entry.what)
    if entry.mode is None or entry.size is None or entry.uid is None:
        return f"{start}  {'':<10}  {'':>20}  {what}"
    mode = stat.filemode(entry.mode)
    size = f"{entry.size} names" if stat.S_ISDIR(entry.mode) else format_size(entry.size)
    return f"{start}  {mode}  {_owner(entry.uid):>8} {size:>11}  {what}"


def _device(entry: PathState) -> str:
    """The machine that made the commit, by the name of its host; empty if nobody said."""
    return "" if entry.host is None else printable_name(entry.host)


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _diff(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    answer = _call(place, DIFF, DifferenceAsked(place.inside, options.first, options.second or NOW))
    return show(answer, options.json, _diff_lines(answer))


def _diff_lines(answer: Difference) -> Iterator[str]:
    for kind, path in answer.changes:
        yield f"{kind} {printable_name(path) or '.'}"
    if answer.more:
        yield "... and more; ask for a folder inside"


def _restore(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    to = place if options.to is None else _same_drive(place, options.to)
    inside = "" if options.to is None else to.inside
    answer = _call(place, RESTORE, RestoreWanted(place.inside, options.at, inside))
    say(f"{to.path}: {_made(answer.made)} as of commit {answer.commit}")
    return 0


def _clone(options: argparse.Namespace) -> int:
    place = DrivePath(options.source)
    to = _same_drive(place, options.target)
    answer = _call(place, CLONE, CloneWanted(place.inside, to.inside))
    say(f"{to.path}: {_made(answer.made)}")
    return 0


def _same_drive(place: DrivePath, path: str) -> DrivePath:
    other = DrivePath(path)
    if other.mountpoint != place.mountpoint:
        raise ToolError(f"{path}: is not in the same drive as {place.path}")
    if not other.inside:
        raise ToolError(f"{path}: is the drive itself")
    return other


def _made(count: int) -> str:
    return "1 file or folder" if count == 1 else f"{count} files and folders"
