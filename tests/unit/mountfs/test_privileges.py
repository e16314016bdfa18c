"""What takes set-user-ID and set-group-ID away, by what the kernel asks for and who asks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cache.attributes import AttributeChange
from mountfs.privileges import Writers, keeps_them, may_reduce, reduced, truncation, without_privileges


class Caller:
    def __init__(self, uid: int, pid: int) -> None:
        self.uid, self.pid, self.gid, self.umask = uid, pid, uid, 0


USER: Any = Caller(1000, 1)
ROOT: Any = Caller(0, 2**22 + 1)
"""Its process has ended."""


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        (0o106755, 0o100755),
        (0o106745, 0o102745),  # set-group-ID without group execution: a mandatory-locking mark of old
        (0o016755, 0o010755),
        (0o046755, 0o046755),  # a directory's are no privileges
        (0o100777, 0o100777),
    ],
)
def test_the_bits_that_are_privileges(mode: int, left: int) -> None:
    assert without_privileges(mode) == left


@pytest.mark.parametrize(
    ("change", "user", "root"),
    [
        (AttributeChange(uid=5), 0o100755, 0o100755),
        (AttributeChange(gid=5), 0o100755, 0o100755),
        (AttributeChange(ctime_ns=1), 0o100755, 0o100755),  # chown to nobody
        (AttributeChange(size=1), 0o100755, None),
        (AttributeChange(mtime_ns=1, ctime_ns=1), None, None),
        (AttributeChange(atime_ns=1, ctime_ns=1), None, None),
        (AttributeChange(mode=0o104755, ctime_ns=1), 0o104755, 0o104755),
    ],
)
def test_what_a_change_takes_away(change: AttributeChange, user: int | None, root: int | None) -> None:
    if may_reduce(change):
        assert reduced(change, 0o106755, USER).mode == user
        assert reduced(change, 0o106755, ROOT).mode == root
        assert reduced(change, 0o100644, USER) == change
    else:
        assert user == root == change.mode


def test_truncating_at_open() -> None:
    assert truncation(0o106755, 7, USER).mode == 0o100755
    assert truncation(0o106755, 7, ROOT).mode is None
    assert truncation(0o100644, 7, USER) == AttributeChange(size=0, mtime_ns=7, ctime_ns=7)


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for this process' own capabilities")
def test_root_is_believed_if_it_has_the_capability() -> None:
    mine: Any = Caller(0, os.getpid())
    status = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in status if line.startswith("CapEff"))
    assert keeps_them(mine) == bool(int(effective, 16) & 1 << 4)
    assert not keeps_them(Caller(1000, os.getpid()))  # type: ignore[arg-type]


def test_who_asks_about_a_file_that_is_open_for_writing_is_a_writer() -> None:
    writers = Writers()
    assert not writers.is_about_to_take(7, 0o104755, USER)  # exec
    writers.opened(7)
    writers.opened(7)
    assert writers.is_about_to_take(7, 0o104755, USER)
    assert not writers.is_about_to_take(7, 0o104755, ROOT)
    assert not writers.is_about_to_take(7, 0o100755, USER)
    assert not writers.is_about_to_take(8, 0o104755, USER)
    writers.closed(7)
    assert writers.is_about_to_take(7, 0o104755, USER)
    writers.closed(7)
    assert not writers.is_about_to_take(7, 0o104755, USER)
