"""`drivefs notices`, `undo`: what a machine decided by itself, and having a mass deletion undone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, Final

from cache.messages import NOTICES, UNDO, MountStatus, Nothing, NoticesShown, UndoWanted
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.control_client import ANSWER_SECONDS, ControlClient
from tools.desktop_notices import Desktop, serve
from tools.quantities import format_moment
from tools.terminal import printable_name, say

LOOK_SECONDS: Final = 5.0
"""Between two looks for what is to be shown on the desktop."""


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    notices = add_command(commands, "notices", "what this machine decided by itself, of 30 days", _notices)
    notices.add_argument("mountpoint", metavar="MOUNTPOINT")
    add_json(notices)
    notices.add_argument(
        "--desktop", action="store_true", help="show new ones on the desktop, until the drive is unmounted"
    )
    undo = add_command(commands, "undo", "bring back what a mass deletion took, and leave the rest", _undo)
    undo.add_argument("mountpoint", metavar="MOUNTPOINT")
    undo.add_argument("--pin", metavar="NAME", help="what is gone since that pinned state; default: the last")


def _notices(options: argparse.Namespace) -> int:
    if options.desktop:
        return _show_on_desktop(options.mountpoint)
    answer = ask_mount(options.mountpoint, NOTICES, Nothing())
    return show(answer, options.json, _lines(answer))


def _show_on_desktop(mountpoint: str) -> int:
    def look() -> tuple[NoticesShown, MountStatus]:
        client = ControlClient.of_mount(mountpoint)
        return client.call(NOTICES, Nothing(), ANSWER_SECONDS), client.status()

    with Desktop() as desktop:
        serve(mountpoint, desktop.show, look, lambda: time.sleep(LOOK_SECONDS))
    return 0


def _lines(answer: NoticesShown) -> Iterator[str]:
    if not answer.notices:
        yield "there is nothing to say"
    for notice in answer.notices:
        about = f"{printable_name(notice.path)}: " if notice.path else ""
        yield f"{format_moment(notice.time_ns)}  {about}{notice.text}"


def _undo(options: argparse.Namespace) -> int:
    ControlClient.of_mount(options.mountpoint).sync(options.mountpoint, None)
    answer = ask_mount(options.mountpoint, UNDO, UndoWanted(options.pin))
    say(f"{options.mountpoint}: {answer.made} files and folders are back, as of commit {answer.commit}")
    if answer.in_the_way:
        say(f"{answer.in_the_way} are not, as something else has their names now")
    return 0
