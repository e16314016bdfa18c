"""tools.host.aside: a call in a process of its own."""

from __future__ import annotations

import os
import threading

import pytest

from tools.errors import ReportedError
from tools.host.aside import aside


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
