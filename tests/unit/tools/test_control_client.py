"""The client of the control socket keeps its time limits, whatever does not answer."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import trio

from cache.messages import MountStatus
from gateway.control import Commands, ControlServer
from tests.statuses import mount_status
from tools import control_client
from tools.control_client import ControlClient, NoAnswerError
from tools.deadline import Deadline
from tools.errors import ToolError

LIMIT = 1.0
SLACK = 1.5
"""What a busy machine may take beside."""


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A control socket that takes every question and answers none."""
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        yield path


def put_sync(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `script` be sync(1)."""
    command = folder / "bin" / "sync"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process is that waits in the kernel: killed, it goes on. Ended after the test."""
    kill = subprocess.Popen.kill
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _process: None)
    yield
    for process in control_client.abandoned:
        kill(process)
        process.communicate()
    control_client.abandoned.clear()


@pytest.mark.usefixtures("unkillable")
def test_a_sync_that_cannot_be_killed_does_not_hold_up_who_asked(
    silent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sync(tmp_path, monkeypatch, "exec sleep 60")
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="not all was written back within 1 s"):
        ControlClient(str(silent)).sync(str(tmp_path), LIMIT)
    assert time.monotonic() - begun < LIMIT + SLACK


def test_all_steps_share_the_time(silent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_sync(tmp_path, monkeypatch, "exec sleep 0.8")
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="no answer within 1 s"):
        ControlClient(str(silent)).sync(str(tmp_path), LIMIT)
    assert time.monotonic() - begun < LIMIT + 0.6


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@contextmanager
def answering(path: Path, *pieces: bytes, pause: float = 0) -> Iterator[None]:
    """A control socket that sends these pieces whatever it is asked, with pauses between, and hangs up."""

    def answer(listener: socket.socket) -> None:
        looked, _ = listener.accept()
        looked.close()  # a connection that only asks who is there
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)
                if over.wait(pause):
                    return

    over = Event()
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen(16)
        answered = pool.submit(answer, listener)
        try:
            yield
        finally:
            over.set()
        answered.result()


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 2",), (HEAD, b"{"), (b"no HTTP\r\n\r\n",)])
def test_what_is_no_whole_answer_is_none(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    path = tmp_path / "control"
    with answering(path, *pieces), pytest.raises(NoAnswerError, match="does not answer"):
        ControlClient(str(path)).status()


def test_an_answer_in_drops_has_no_more_time_than_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control"
    monkeypatch.setattr(control_client, "ANSWER_SECONDS", LIMIT)
    begun = time.monotonic()
    with answering(path, HEAD, *[b" "] * 100, pause=0.1), pytest.raises(NoAnswerError, match="within 1 s"):
        ControlClient(str(path)).status()
    assert time.monotonic() - begun < LIMIT + SLACK


async def test_what_could_not_be_written_back_is_told_when_the_rest_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    asked: list[str] = []

    async def status() -> MountStatus:
        return mount_status()

    async def sync() -> None:
        asked.append("sync")

    async def write_back() -> str:
        asked.append("write back")
        return ""

    path = tmp_path / "run" / "control"
    commands = Commands(status, sync, write_back, lambda: asked.append("unmount"))
    await nursery.start(ControlServer(path, commands).serve)
    put_sync(tmp_path, monkeypatch, "echo 'No space left on device' >&2; exit 1")
    with pytest.raises(ToolError, match="not all could be written back: No space left on device"):
        await trio.to_thread.run_sync(ControlClient(str(path)).sync, str(tmp_path), None)
    assert asked == ["sync"]


def test_a_deadline_is_never_over_for_a_step() -> None:
    assert Deadline(None).left() is None
    over = Deadline(0).left()
    assert over is not None
    assert over > 0
