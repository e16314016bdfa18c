"""`drivefs retention` and `gc`: which earlier states are retained; giving space back (docs/retention.md)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from backend.errors import UsageError
from cache.messages import (
    COLLECT,
    RETENTION_PREVIEW,
    RETENTION_SET,
    RETENTION_SHOW,
    CollectionDone,
    CollectionWanted,
    Nothing,
    PolicyPreview,
    PolicyShown,
    PolicyTimes,
)
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.errors import Parser
from tools.quantities import counted, format_age, format_moment, format_size, parse_age

TIERS: Final = {
    "keep_all": ("--all", "every state"),
    "hourly": ("--hourly", "the last state of each hour"),
    "daily": ("--daily", "the last state of each day"),
    "weekly": ("--weekly", "the last state of each week"),
    "monthly": ("--monthly", "the last state of each month"),
}


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    _register_retention(commands)
    gc = add_command(commands, "gc", "apply the retention policy and give space back, now", _gc)
    gc.add_argument("mountpoint", metavar="MOUNTPOINT")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--grace", type=parse_age, metavar="T", help="delete what was released so long ago (1h)")
    gc.add_argument("--trust-clock", action="store_true", help="drop states even if the clock has jumped")
    add_json(gc)


def _register_retention(commands: Any) -> None:
    retention = commands.add_parser("retention", help="which earlier states are retained, and for how long")
    actions = retention.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    show = add_command(actions, "show", "the policy", _show)
    change = add_command(actions, "set", "change the policy", _set)
    preview = add_command(actions, "preview", "what would go now, and what that frees", _preview)
    for parser in (show, change, preview):
        parser.add_argument("mountpoint", metavar="MOUNTPOINT")
        add_json(parser)
    for parser in (change, preview):
        for field, (option, text) in TIERS.items():
            parser.add_argument(
                option, dest=field, type=parse_age, metavar="T", help=f"retain {text} for this time"
            )


def _show(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, RETENTION_SHOW, Nothing())
    return show(answer, options.json, _shown_lines(answer))


def _policy_lines(policy: PolicyTimes) -> Iterator[str]:
    for field, (_, text) in TIERS.items():
        yield f"{text:<28}  {format_age(getattr(policy, field))}"


def _shown_lines(answer: PolicyShown) -> Iterator[str]:
    yield from _policy_lines(answer.policy)
    yield f"{'states retained now':<28}  {answer.points}"
    if answer.oldest_ns is not None:
        yield f"{'the oldest':<28}  {format_moment(answer.oldest_ns)}"
    if answer.held_back:
        yield f"nothing is dropped now: {answer.held_back}"


def _times(options: argparse.Namespace) -> PolicyTimes:
    return PolicyTimes(**{field: getattr(options, field) for field in TIERS})


def _set(options: argparse.Namespace) -> int:
    times = _times(options)
    if times == PolicyTimes():
        raise UsageError("nothing to set: give --all, --hourly, --daily, --weekly or --monthly")
    answer = ask_mount(options.mountpoint, RETENTION_SET, times)
    return show(answer, options.json, _policy_lines(answer.policy))


def _preview(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, RETENTION_PREVIEW, _times(options))
    return show(answer, options.json, _preview_lines(answer))


def _preview_lines(answer: PolicyPreview) -> Iterator[str]:
    freed = answer.freed
    yield f"{counted(answer.points, 'state')} would go"
    yield f"that frees {format_size(freed.stored)} on the nodes ({format_size(freed.sealed)} of data)"
    if answer.held_back:
        yield f"not now, though: {answer.held_back}"


def _gc(options: argparse.Namespace) -> int:
    wanted = CollectionWanted(options.dry_run, options.grace, options.trust_clock)
    answer = ask_mount(options.mountpoint, COLLECT, wanted)
    return show(answer, options.json, gc_lines(answer))


def gc_lines(answer: CollectionDone) -> Iterator[str]:
    """The results of a collection, done or to be done."""
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
