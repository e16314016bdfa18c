"""Notices on the desktop: what a mount has to say, shown by the notification service of a session (D-Bus,
freedesktop.org's org.freedesktop.Notifications).

Invariants:
1. Each notice is shown once. Those that were there before the first look are not: `drivefs notices` has them.
2. A mount that does not answer is said once, and asked again.
3. Many at once are one message, so that a rebase of a thousand files does not fill the screen.
4. Names come from other devices: the service, which understands markup, gets none of theirs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from types import TracebackType
from typing import Any, Final, NamedTuple

from cache.messages import DriveStatus, NoticeShown, NoticesShown
from tools.control_client import NoAnswerError, NotMountedError
from tools.errors import ToolError
from tools.terminal import printable, printable_name

SHOWN_AT_ONCE: Final = 3
"""Notices of one kind that a message names."""
SECONDS: Final = 5.0
"""How long the bus, and the service that it may have to start first, may take."""
_TITLES: Final = {"conflict": "conflicts", "mass deletion": "mass deletion"}
_PASSING: Final = frozenset({"editing", "uploading"})
"""Kinds of what other devices do all day, and nobody has to act on."""
_CRITICAL: Final = 2
_NAME: Final = "org.freedesktop.Notifications"
"""Of the service on the bus, and of its interface."""
_PATH: Final = "/org/freedesktop/Notifications"


class Message(NamedTuple):
    """A notification. `is_urgent`: it stays until somebody has seen it."""

    title: str
    text: str
    is_urgent: bool


class News:
    """What is new since the last look. `mountpoint`: for people."""

    def __init__(self, mountpoint: str, notices: NoticesShown) -> None:
        self._mountpoint = printable(mountpoint)
        self._known = frozenset(notices.notices)
        self._is_fenced = self._is_silent = False

    def look(self, notices: NoticesShown, status: DriveStatus) -> list[Message]:
        """The messages about what is there now, and was not at the last look."""
        lasting = [notice for notice in notices.notices if notice.kind not in _PASSING]
        new = [notice for notice in lasting if notice not in self._known]
        self._known = frozenset(lasting)
        found = [self._about(kind, new) for kind in Counter(notice.kind for notice in new)]
        if status.fenced and not self._is_fenced:
            text = status.problem or "nothing more can be stored from this mount"
            found.append(Message(f"{self._mountpoint}: fenced", text, is_urgent=True))
        self._is_fenced, self._is_silent = status.fenced, False
        return found

    def without_answer(self, error: NoAnswerError) -> list[Message]:
        """The message about a mount that does not answer; none if the last look had no answer either."""
        was, self._is_silent = self._is_silent, True
        title = f"{self._mountpoint}: no answer"
        return [] if was else [Message(title, str(error), is_urgent=True)]

    def _about(self, kind: str, new: Sequence[NoticeShown]) -> Message:
        """One message about all those of that kind."""
        these = [notice for notice in new if notice.kind == kind]
        lines = [_line(notice) for notice in these[:SHOWN_AT_ONCE]]
        if len(these) > SHOWN_AT_ONCE:
            lines.append(f"and {len(these) - SHOWN_AT_ONCE} more: drivefs notices {self._mountpoint}")
        title = f"{self._mountpoint}: {_TITLES.get(kind, kind)}"
        return Message(title, "\n".join(lines), is_urgent=kind == "mass deletion")


def _line(notice: NoticeShown) -> str:
    return f"{printable_name(notice.path)}: {notice.text}" if notice.path else notice.text


class Desktop:
    """The notification service of this session. Close it. `ToolError`: there is no session bus, or the
    package that speaks to it is not installed."""

    def __init__(self) -> None:
        try:
            from jeepney import DBusAddress
            from jeepney.io.blocking import open_dbus_connection
        except ImportError:
            raise ToolError(
                "notices on the desktop need the package jeepney, which is not installed: "
                "pip install 'drivefs[desktop]'"
            ) from None
        self._service: Any = DBusAddress(_PATH, _NAME, _NAME)
        try:
            self._connection: Any = open_dbus_connection(_bus(), auth_timeout=SECONDS)
        except (OSError, ValueError, RuntimeError) as error:
            raise ToolError(f"the session's D-Bus cannot be reached: {error}") from None

    def show(self, message: Message) -> None:
        """Return when the service has taken it. `ToolError`: there is none, or the session has ended."""
        from jeepney import DBusErrorResponse, new_method_call
        from jeepney.wrappers import unwrap_msg

        hints = {"urgency": ("y", _CRITICAL)} if message.is_urgent else {}
        said: tuple[Any, ...] = (
            "drivefs",
            0,
            "drive-harddisk",
            message.title,
            escape(message.text),
            [],
            hints,
            -1,
        )
        call = new_method_call(self._service, "Notify", "susssasa{sv}i", said)
        try:
            unwrap_msg(self._connection.send_and_get_reply(call, timeout=SECONDS))
        except (OSError, DBusErrorResponse) as error:
            raise ToolError(f"the desktop shows no notices: {error}") from None

    def close(self) -> None:
        """Let go of the bus. Idempotent."""
        self._connection.close()

    def __enter__(self) -> Desktop:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _bus() -> str:
    """The address of the session's bus: as the session says, else where systemd has it."""
    place = f"/run/user/{os.getuid()}/bus"
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if not address and not os.path.exists(place):
        raise ToolError("there is no session bus (DBUS_SESSION_BUS_ADDRESS): run it in a desktop session")
    return address or f"unix:path={place}"


Look = Callable[[], tuple[NoticesShown, DriveStatus]]
"""What the mount says now. `NoAnswerError`, `NotMountedError`."""


def serve(mountpoint: str, show: Callable[[Message], None], look: Look, pause: Callable[[], None]) -> None:
    """Show what is new at each look, with a pause between two, until the drive is unmounted. Raises what
    `show` raises."""
    news: News | None = None
    while True:
        try:
            notices, status = look()
            news = news or News(mountpoint, notices)
            messages = news.look(notices, status)
        except NotMountedError:
            if news is None:
                raise
            return
        except NoAnswerError as error:
            if news is None:
                raise
            messages = news.without_answer(error)
        for message in messages:
            show(message)
        pause()
