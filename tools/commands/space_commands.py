"""`drivefs retention`, `gc`, `du`, `pin`, `unpin`, `pins`, `snapshot`: what is retained, and what it takes.

They ask the running mount (`cache.messages.space`); docs/retention.md explains them.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from backend.errors import UsageError
from cache.messages import (
    COLLECT,
    PIN,
    PINS,
    RETENTION_PREVIEW,
    RETENTION_SET,
    RETENTION_SHOW,
    UNPIN,
    USAGE,
    Call,
    CollectionDone,
    CollectionWanted,
    Nothing,
    PinWanted,
    PolicyPreview,
    PolicyShown,
    PolicyTimes,
    UnpinWanted,
    UsageAsked,
    UsageShown,
    to_plain,
)
from tools.control_client import ControlClient
from tools.drive_path import DrivePath
from tools.errors import Parser, ToolError
from tools.quantities import counted, format_size, moment
from tools.terminal import printable_name, say, say_json

TIERS: Final = {
    "keep_all": ("--all", "every state"),
    "hourly": ("--hourly", "the last state of each hour"),
    "daily": ("--daily", "the last state of each day"),
    "weekly": ("--weekly", "the last state of each week"),
    "monthly": ("--monthly", "the last state of each month"),
}
DU_COLUMNS: Final = ("items", "logical", "unique", "compressed", "with parity", "history adds")
Question = TypeVar("Question")
Answer = TypeVar("Answer")

FOREVER: Final = 1 << 40
"""Seconds; what `forever` is kept as."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def parse_age(text: str) -> int:
    """Seconds of `90m`, `24h`, `30d`, `8w`, `2y`, `0` or `forever`. `UsageError` for anything else."""
    if text == "forever":
        return FOREVER
    match = re.fullmatch(r"(\d{1,9})([smhdwy])", text) or re.fullmatch(r"(0)()", text)
    if match is None:
        raise UsageError(f"'{text}' is no time: write for example 24h, 30d, 1y, 0 or forever")
    return int(match[1]) * _UNITS.get(match[2], 1)


def format_age(seconds: int) -> str:
    """As `parse_age` reads it, in the largest unit without a rest."""
    if seconds >= FOREVER:
        return "forever"
    if not seconds:
        return "0"
    unit = next(unit for unit in "ywdhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def register(commands: Any) -> None:
    """Add the sub-commands to those of `drivefs`."""
    _register_retention(commands)
    gc = _command(commands, "gc", "apply the retention policy and give space back, now", _gc)
    gc.add_argument("mountpoint", metavar="MOUNTPOINT")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--grace", type=parse_age, metavar="T", help="delete what was released so long ago (1h)")
    gc.add_argument("--trust-clock", action="store_true", help="drop states even if the clock has jumped")
    gc.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    du = _command(commands, "du", "what a file or folder takes, with its history", _du)
    du.add_argument("path", metavar="PATH")
    du.add_argument(
        "--depth", type=_depth, default=1, metavar="N", help="list folders so deep (1); 0: only PATH itself"
    )
    du.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    _register_pins(commands)


def _register_retention(commands: Any) -> None:
    retention = commands.add_parser("retention", help="which earlier states are retained, and for how long")
    actions = retention.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    show = _command(actions, "show", "the policy", _show)
    change = _command(actions, "set", "change the policy", _set)
    preview = _command(actions, "preview", "what would go now, and what that frees", _preview)
    for parser in (show, change, preview):
        parser.add_argument("mountpoint", metavar="MOUNTPOINT")
        parser.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    for parser in (change, preview):
        for field, (option, text) in TIERS.items():
            parser.add_argument(
                option, dest=field, type=parse_age, metavar="T", help=f"retain {text} for this time"
            )


def _register_pins(commands: Any) -> None:
    pin = _command(commands, "pin", "retain the drive as it was at a time, until it is unpinned", _pin)
    pin.add_argument("mountpoint", metavar="MOUNTPOINT")
    pin.add_argument(
        "time", type=moment, metavar="TIME", nargs="?", help="as in .versions, for example 2h; default: now"
    )
    pin.add_argument("--name", metavar="NAME", help="default: the time")
    snapshot = _command(commands, "snapshot", "retain the drive as it is now, by name", _snapshot)
    unpin = _command(commands, "unpin", "give up a pin or a named snapshot", _unpin)
    for parser in (snapshot, unpin):
        parser.add_argument("mountpoint", metavar="MOUNTPOINT")
        parser.add_argument("name", metavar="NAME")
    pins = _command(commands, "pins", "all pins and named snapshots", _pins)
    pins.add_argument("mountpoint", metavar="MOUNTPOINT")
    pins.add_argument("--json", action="store_true", help="as one JSON object, for programs")


def _command(commands: Any, name: str, text: str, run: Any) -> Parser:
    parser: Parser = commands.add_parser(name, help=text)
    parser.set_defaults(command=run)
    return parser


def _call(mountpoint: str, call: Call[Question, Answer], question: Question) -> Answer:
    return ControlClient.of_mount(mountpoint).call(call, question)


def _print(answer: object, as_json: bool, lines: Iterator[str]) -> int:
    if as_json:
        say_json(to_plain(answer))
    else:
        say(*lines)
    return 0


def _show(options: argparse.Namespace) -> int:
    answer = _call(options.mountpoint, RETENTION_SHOW, Nothing())
    return _print(answer, options.json, _shown_lines(answer))


def _policy_lines(policy: PolicyTimes) -> Iterator[str]:
    for field, (_, text) in TIERS.items():
        yield f"{text:<28}  {format_age(getattr(policy, field))}"


def _shown_lines(answer: PolicyShown) -> Iterator[str]:
    yield from _policy_lines(answer.policy)
    yield f"{'states retained now':<28}  {answer.points}"
    if answer.oldest_ns is not None:
        yield f"{'the oldest':<28}  {_time(answer.oldest_ns)}"
    if answer.held_back:
        yield f"nothing is dropped now: {answer.held_back}"


def _times(options: argparse.Namespace) -> PolicyTimes:
    return PolicyTimes(**{field: getattr(options, field) for field in TIERS})


def _set(options: argparse.Namespace) -> int:
    times = _times(options)
    if times == PolicyTimes():
        raise UsageError("nothing to set: give --all, --hourly, --daily, --weekly or --monthly")
    answer = _call(options.mountpoint, RETENTION_SET, times)
    return _print(answer, options.json, _policy_lines(answer.policy))


def _preview(options: argparse.Namespace) -> int:
    answer = _call(options.mountpoint, RETENTION_PREVIEW, _times(options))
    return _print(answer, options.json, _preview_lines(answer))


def _preview_lines(answer: PolicyPreview) -> Iterator[str]:
    freed = answer.freed
    yield f"{counted(answer.points, 'state')} would go"
    yield f"that frees {format_size(freed.stored)} on the nodes ({format_size(freed.sealed)} of data)"
    if answer.held_back:
        yield f"not now, though: {answer.held_back}"


def _gc(options: argparse.Namespace) -> int:
    wanted = CollectionWanted(options.dry_run, options.grace, options.trust_clock)
    answer = _call(options.mountpoint, COLLECT, wanted)
    return _print(answer, options.json, gc_lines(answer))


def gc_lines(answer: CollectionDone) -> Iterator[str]:
    """What a collection did, or would do."""
    if answer.held_back:
        yield f"no states are dropped: {answer.held_back}"
    if answer.freed is not None and answer.dead_bytes is not None:
        states, blocks = counted(answer.points, "state"), counted(answer.dead, "block")
        yield f"{states} would go, with {format_size(answer.freed.sealed)} of data"
        yield f"needed by nobody already: {blocks} with {format_size(answer.dead_bytes)}"
        return
    dead = counted(answer.dead, "block")
    yield f"{counted(answer.points, 'state')} dropped; needed by nobody: {dead}"
    packs = f"{counted(answer.packs, 'pack')}, {answer.rewritten} of them rewritten"
    yield f"{counted(answer.blocks, 'block')} deleted: {packs}"
    yield f"{format_size(answer.stored_bytes)} of the nodes' space given back"
    if answer.dead > answer.blocks:
        waiting, grace = counted(answer.dead - answer.blocks, "block"), format_age(int(answer.grace))
        yield f"kept until the end of the grace: {waiting}, {grace}; --grace 0 deletes them now"
    if answer.waiting:
        yield f"waiting for a node that does not answer: {counted(answer.waiting, 'pack')}"
    if answer.lost:
        yield f"needed and not stored: {counted(answer.lost, 'block')}; see fsck.drivefs"


def _du(options: argparse.Namespace) -> int:
    place = DrivePath(options.path)
    client = place.client()
    client.sync(place.mountpoint, None)
    answer = client.call(USAGE, UsageAsked(os.lstat(options.path).st_ino, options.depth))
    return _print(answer, options.json, _du_lines(options.path, answer))


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


def _pin(options: argparse.Namespace) -> int:
    name = options.name or options.time or time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    if not options.time:
        ControlClient.of_mount(options.mountpoint).sync(options.mountpoint, None)
    answer = _call(options.mountpoint, PIN, PinWanted(name, moment=options.time or None))
    say(f"{name}: commit {answer.commit} is retained until it is unpinned")
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    options.time = None
    return _pin(options)


def _unpin(options: argparse.Namespace) -> int:
    _call(options.mountpoint, UNPIN, UnpinWanted(options.name))
    return 0


def _pins(options: argparse.Namespace) -> int:
    answer = _call(options.mountpoint, PINS, Nothing())
    lines = (f"{_time(pin.time_ns)}  {pin.commit:>8}  {pin.name}" for pin in answer.pins)
    if not answer.pins and not options.json:
        return 0
    return _print(answer, options.json, lines)


def _time(time_ns: int | None) -> str:
    if time_ns is None:
        raise ToolError("a pin names a state that is not retained: see fsck.drivefs")
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(time_ns // 10**9))
