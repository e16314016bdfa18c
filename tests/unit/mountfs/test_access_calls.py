"""What a process asks by access(2) is known from the system call that it is in."""

from __future__ import annotations

import os
import platform
import subprocess

import pytest

from mountfs.access_calls import asks_to_write, is_asking_to_write

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ("21 0x7ffd 0x2 0x0", True),
        ("21 0x7ffd 0x6 0x0", True),
        ("21 0x7ffd 0x4 0x2", False),
        ("269 0xffffff9c 0x7ffd 0x2 0x0", True),
        ("439 0xffffff9c 0x7ffd 0x7 0x200", True),
        ("439 0xffffff9c 0x7ffd 0x0 0x200", False),
        ("257 0xffffff9c 0x7ffd 0x2 0x0", False),
        ("-1 0x7ffd 0x0", False),
        ("running", False),
        ("21", False),
    ],
)
def test_calls(said: str, asks: bool) -> None:
    assert is_asking_to_write(said.split()) == asks


def test_nobody_is_believed_to_ask_who_cannot_be_looked_at() -> None:
    assert not asks_to_write(0)
    assert not asks_to_write(os.getpid())
    with subprocess.Popen(["true"]) as ended:
        pass
    assert not asks_to_write(ended.pid)
