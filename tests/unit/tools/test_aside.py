"""tools.host.aside: a call in a process of its own."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tools.errors import ReportedError, ToolError
from tools.host.aside import aside, packed, unpacked


def test_the_answer_comes_from_another_process() -> None:
    assert aside(lambda: (os.getpid(), [b"\0" * 200_000])) != (os.getpid(), [b"\0" * 200_000])
    assert aside(lambda: [("a", 1), ("b", 2)]) == [("a", 1), ("b", 2)]


def test_its_threads_are_not_here() -> None:
    def start() -> int:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return threading.active_count()

    before = threading.active_count()
    assert aside(start) > 1
    assert threading.active_count() == before


def test_an_error_there_is_one_here(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("why")

    with pytest.raises(ReportedError):
        aside(fail)
    assert "ValueError: why" in capfd.readouterr().err


def test_its_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process does not end as long as one of its threads hangs in the kernel."""

    def answer_and_hang() -> int:
        def hang(_code: int) -> None:
            while True:
                signal.pause()

        monkeypatch.setattr(os, "_exit", hang)
        return os.getpid()

    process = aside(answer_and_hang)
    os.kill(process, signal.SIGKILL)  # it is there


def test_who_does_not_answer_is_waited_for_so_long(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    ended, ending = os.pipe()
    with pytest.raises(ToolError, match=r"was not answered within 0.2 s"):
        aside(lambda: os.read(reader, 1), seconds=0.2)
    os.close(ending)
    os.write(writer, b"x")
    assert os.read(ended, 1) == b"", "it ends when it can"
    assert capfd.readouterr().err == ""
    for descriptor in (reader, writer, ended):
        os.close(descriptor)


def test_part_of_an_answer_is_none() -> None:
    whole = packed([b"x" * 300])
    assert unpacked(whole) == [b"x" * 300]
    for said in (*(whole[:length] for length in range(len(whole))), whole + b"x"):
        with pytest.raises(ReportedError, match="without a whole answer"):
            unpacked(said)
