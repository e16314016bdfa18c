"""tools.desktop_notices: what a mount has to say is shown once, on a session bus of the test's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cache.messages import MountStatus, NoticeShown, NoticesShown
from tests.statuses import mount_status as status
from tools.control_client import NoAnswerError, NotMountedError
from tools.desktop_notices import Desktop, Message, serve
from tools.errors import ToolError


def noticed(*notices: tuple[str, str, str]) -> NoticesShown:
    """Of kinds, paths and texts."""
    return NoticesShown(tuple(NoticeShown(n, *each, 1) for n, each in enumerate(notices)))


OLD = ("conflict", "old", "said before")
COPY = ("conflict", "a%3Cb%3E/report", "both changed the content: the local one is a copy")
GONE = ("mass deletion", "", "1,200 files are gone")


def shown(*looks: tuple[NoticesShown, MountStatus] | ToolError) -> list[Message]:
    """The messages of these looks, after which the drive is unmounted."""
    coming: Iterator[Any] = iter([*looks, NotMountedError("it is gone")])
    found: list[Message] = []

    def look() -> tuple[NoticesShown, MountStatus]:
        answer = next(coming)
        if isinstance(answer, ToolError):
            raise answer
        notices, said = answer
        return notices, said

    serve("/mnt/drive", found.append, look, lambda: None)
    return found


def test_each_notice_is_shown_once_and_none_that_was_there_before() -> None:
    before, all_three = noticed(OLD), noticed(OLD, COPY, GONE)
    looks = [(each, status()) for each in (before, before, all_three, all_three, noticed(OLD, COPY))]
    titles = [(message.title, message.is_urgent) for message in shown(*looks)]
    assert titles == [("/mnt/drive: conflicts", False), ("/mnt/drive: mass deletion", True)]


def test_what_other_devices_are_doing_is_no_message() -> None:
    doing = [(kind, "plan", "on laptop (device 3)") for kind in ("editing", "uploading")]
    assert shown((noticed(OLD), status()), (noticed(OLD, *doing), status()), (noticed(OLD), status())) == []


def test_many_at_once_are_one_message() -> None:
    many = [("conflict", f"f{number}", "a copy") for number in range(40)]
    (message,) = shown((noticed(), status()), (noticed(*many), status()))
    assert message.text.splitlines() == [
        "f0: a copy",
        "f1: a copy",
        "f2: a copy",
        "and 37 more: drivefs notices /mnt/drive",
    ]


def test_a_mount_that_is_fenced_or_does_not_answer_is_said_once() -> None:
    fenced = status(fenced=True, problem="fenced: another one writes")
    silent = NoAnswerError("the mount does not answer")
    said = (noticed(), fenced)
    titles = [message.title for message in shown(said, said, silent, silent, said)]
    assert titles == ["/mnt/drive: fenced", "/mnt/drive: no answer"]


def test_a_mount_that_was_never_there_is_an_error() -> None:
    with pytest.raises(NotMountedError):
        shown()


def test_without_a_session_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("jeepney", reason="the extra `desktop` is not installed")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'no bus'}")
    with pytest.raises(ToolError, match="session's D-Bus cannot be reached"):
        Desktop()


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a bus that is this test's own."""
    pytest.importorskip("jeepney", reason="the extra `desktop` is not installed")
    daemon = shutil.which("dbus-daemon")
    if daemon is None:
        pytest.skip("dbus-daemon is not installed")
    place = f"--address=unix:path={tmp_path / 'bus'}"
    command = [daemon, "--session", "--nofork", "--print-address=1", place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        yield address
        process.kill()


def test_the_service_of_the_session_gets_it(bus: str) -> None:
    with Service(bus) as service, Desktop() as desktop:
        desktop.show(Message("title", "a<b>/report: a copy", is_urgent=True))
        (title, text, hints) = service.said()
    assert (title, text) == ("title", "a&lt;b&gt;/report: a copy")
    assert hints == {"urgency": ("y", 2)}


def test_a_session_without_such_a_service_says_so(bus: str) -> None:
    with Desktop() as desktop, pytest.raises(ToolError, match="the desktop shows no notices"):
        desktop.show(Message("title", "text", is_urgent=False))


class Service:
    """A notification service, which takes one notification in a thread."""

    def __init__(self, address: str) -> None:
        from jeepney.bus_messages import message_bus
        from jeepney.io.blocking import open_dbus_connection

        self._connection = open_dbus_connection(address)
        self._connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
        self._thread = ThreadPoolExecutor(1)
        self._taken = self._thread.submit(self._take)

    def _take(self) -> Sequence[Any]:
        from jeepney import HeaderFields, new_method_return

        while True:
            asked = self._connection.receive(timeout=30)
            if asked.header.fields.get(HeaderFields.member) == "Notify":
                self._connection.send(new_method_return(asked, "u", (1,)))
                return tuple(asked.body)

    def said(self) -> tuple[str, str, Any]:
        """Title, text and hints of what it took."""
        body = self._taken.result(30)
        return body[3], body[4], body[6]

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._thread.shutdown()
