"""`drivefs pin`, `unpin`, `pins`: states that are retained until somebody gives them up."""

from __future__ import annotations

import argparse
import time
from typing import Any

from cache.messages import PIN, PINS, UNPIN, Nothing, PinWanted, UnpinWanted
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.quantities import format_moment, moment
from tools.terminal import say


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    pin = add_command(commands, "pin", "retain the drive as it was at a time, until it is unpinned", _pin)
    pin.add_argument("mountpoint", metavar="MOUNTPOINT")
    pin.add_argument(
        "time", type=moment, metavar="TIME", nargs="?", help="as in .versions, for example 2h; default: now"
    )
    pin.add_argument("--name", metavar="NAME", help="default: the time")
    unpin = add_command(commands, "unpin", "give up a pin", _unpin)
    unpin.add_argument("mountpoint", metavar="MOUNTPOINT")
    unpin.add_argument("name", metavar="NAME")
    pins = add_command(commands, "pins", "all pins", _pins)
    pins.add_argument("mountpoint", metavar="MOUNTPOINT")
    add_json(pins)


def _pin(options: argparse.Namespace) -> int:
    name = options.name or options.time or format_moment(time.time_ns())
    if not options.time:
        ControlClient.of_mount(options.mountpoint).sync(options.mountpoint, None)
    answer = ask_mount(options.mountpoint, PIN, PinWanted(name, moment=options.time or None))
    say(f"{name}: commit {answer.commit} is retained until it is unpinned")
    return 0


def _unpin(options: argparse.Namespace) -> int:
    ask_mount(options.mountpoint, UNPIN, UnpinWanted(options.name))
    return 0


def _pins(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, PINS, Nothing())
    lines = (f"{_time(pin.time_ns)}  {pin.commit:>8}  {pin.name}" for pin in answer.pins)
    if not answer.pins and not options.json:
        return 0
    return show(answer, options.json, lines)


def _time(time_ns: int | None) -> str:
    if time_ns is None:
        raise ToolError("a pin names a state that is not retained: see fsck.drivefs")
    return format_moment(time_ns)
