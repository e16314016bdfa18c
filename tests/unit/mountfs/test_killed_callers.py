"""mountfs.killed_callers: the layout that it relies on, and what the kernel says of a thread. The rest is
`tests/mount/test_killing.py`."""

from __future__ import annotations

import signal
import subprocess
import threading

import pyfuse3
import pytest
import trio

from mountfs import killed_callers
from mountfs.killed_callers import can_tell, is_being_killed, is_killed


def test_the_installed_pyfuse3_is_a_known_one() -> None:
    assert can_tell()


@pytest.mark.parametrize("machine", ["s390x", ""])
def test_on_an_unknown_machine_nothing_is_read(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    assert killed_callers.request_offset("x86_64", 264) == 80
    assert killed_callers.request_offset(machine, 264) == 0


def test_an_object_of_another_size_is_not_read() -> None:
    assert killed_callers.request_offset("x86_64", 288) == 104, "as of libfuse 3.17"
    assert killed_callers.request_offset("x86_64", 272) == 0
    assert killed_callers.request_offset("x86_64", 0) == 0


async def test_a_task_that_handles_no_request_is_not_killed() -> None:
    assert not is_killed(trio.lowlevel.current_task())


def test_a_thread_that_lives_is_not_being_killed() -> None:
    assert not is_being_killed(threading.get_native_id())
    assert not is_being_killed(0)


def test_another_signal_that_waits_is_no_killing() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert not is_being_killed(threading.get_native_id())
        assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_process_that_is_gone_is_not_being_killed() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not is_being_killed(process.pid)


def test_pyfuse3_has_what_is_looked_for() -> None:
    assert "_Container" in vars(pyfuse3)
