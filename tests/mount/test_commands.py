"""The commands that tests fork: none outlives the call that started it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.mount import commands

pytestmark = pytest.mark.mount


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[[float], commands.Result]]:
    """A command that waits for its passphrase for ever, run with a limit of seconds."""
    pipe = tmp_path / "passphrase"
    os.mkfifo(pipe)
    arguments = ["--passphrase-file", str(pipe), str(tmp_path / "drive")]
    yield lambda seconds: commands.run("mkfs.drivefs", arguments, os.environ, seconds)
    assert multiprocessing.active_children() == []


def test_one_that_takes_too_long_is_killed(endless: Callable[[float], commands.Result]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        endless(0.5)


def test_one_that_is_no_longer_waited_for_is_killed(
    endless: Callable[[float], commands.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what a test waited for at its time limit went on beside those that followed."""
    join = BaseProcess.join

    def interrupted(process: BaseProcess, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        join(process)

    monkeypatch.setattr(BaseProcess, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        endless(60.0)
