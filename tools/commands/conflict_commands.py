"""`drivefs conflicts`: the copies of files that two devices changed, and having one decided."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from backend.errors import UsageError
from cache.messages import CONFLICTS, CONFLICTS_RESOLVE, Conflicts, Nothing, ResolveWanted
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.drive_path import DrivePath
from tools.quantities import format_moment
from tools.terminal import printable_name

RESOLVE: Final = "resolve"


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    conflicts = add_command(
        commands, "conflicts", "files that two devices changed: list the copies, or decide on one", _conflicts
    )
    conflicts.add_argument(
        "place", nargs="+", metavar="MOUNTPOINT | resolve PATH", help="PATH: a copy, or a file with one copy"
    )
    conflicts.add_argument("--keep", choices=("mine", "theirs", "both"), help="mine is what the copy has")
    add_json(conflicts)


def _conflicts(options: argparse.Namespace) -> int:
    first, *rest = options.place
    if first == RESOLVE and len(rest) == 1 and options.keep:
        return _resolve(rest[0], options)
    if rest or options.keep or first == RESOLVE:
        raise UsageError("conflicts takes MOUNTPOINT, or resolve PATH --keep mine|theirs|both")
    answer = ask_mount(first, CONFLICTS, Nothing())
    return show(answer, options.json, _lines(answer))


def _lines(answer: Conflicts) -> Iterator[str]:
    if not answer.copies and not answer.versions:
        yield "there are no conflicts"
    for copy in answer.copies:
        made = f"{format_moment(copy.time_ns)}  of {printable_name(copy.by)}, on commit {copy.base}"
        yield printable_name(copy.path)
        yield f"    a copy of {printable_name(copy.of)}; {made}"
    for version in answer.versions:
        made = f"{format_moment(version.time_ns)}  of {printable_name(version.by)}, on commit {version.base}"
        yield printable_name(version.of)
        yield f"    a version, not shown, as of commit {version.commit}; {made}"


def _resolve(path: str, options: argparse.Namespace) -> int:
    place = DrivePath(path)
    answer = place.client().call(CONFLICTS_RESOLVE, ResolveWanted(place.inside, options.keep))
    return show(answer, options.json, _resolved_lines(answer, options.keep))


def _resolved_lines(answer: Conflicts, kept: str) -> Iterator[str]:
    for copy in answer.copies:
        yield f"{printable_name(copy.path)}: {kept}, of {printable_name(copy.of)}"
    for version in answer.versions:
        yield f"{printable_name(version.of)}: {kept}, of the version as of commit {version.commit}"
