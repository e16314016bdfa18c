"""The notices of a device: their codec, and what becomes of them on a disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import Durable, Environment
from cache.notices import LONGEST, MOST, Kind, Notice, Notices, decode, encode

NUMBERS = st.integers(0, (1 << 63) - 1)
NOTICES = st.builds(
    Notice, NUMBERS, st.sampled_from(Kind), st.text(max_size=50), st.text(max_size=50), NUMBERS
)
DAY = 24 * 3600 * 10**9
PLAIN = {"time_ns": 1, "kind": "conflict", "path": "f", "text": "t", "commit": 3}


@given(st.lists(NOTICES, max_size=20))
def test_what_is_listed_is_read(notices: list[Notice]) -> None:
    assert decode(encode(notices)) == notices


def test_bytes_made_by_hand() -> None:
    assert decode(json.dumps({"version": 1, "notices": [PLAIN]}).encode()) == [
        Notice(1, Kind.CONFLICT, "f", "t", 3)
    ]


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(FormatError):
        decode(json.dumps({"version": version, "notices": []}).encode())


@pytest.mark.parametrize(
    "notices",
    [
        None,
        [5],
        [{**PLAIN, "commit": -1}],
        [{**PLAIN, "time_ns": True}],
        [{**PLAIN, "kind": "gossip"}],
        [{**PLAIN, "path": "p" * (LONGEST + 1)}],
        [{**PLAIN, "text": None}],
        [PLAIN] * (MOST + 1),
    ],
)
def test_what_is_no_list_is_refused(notices: object) -> None:
    with pytest.raises(CorruptError):
        decode(json.dumps({"version": 1, "notices": notices}).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    with pytest.raises((CorruptError, FormatError)):
        decode(data)


class Clock:
    def __init__(self) -> None:
        self.now = 40 * DAY

    def __call__(self) -> int:
        return self.now


async def test_they_are_there_after_a_remount_for_thirty_days(tmp_path: Path) -> None:
    clock = Clock()
    environment = Environment(wall_clock=clock)
    earlier = Notices(tmp_path, environment)
    earlier.add(Kind.CONFLICT, [("a/b", "it happened")], 7)
    await earlier.store()
    notices = Notices(tmp_path, environment)
    assert [*notices()] == [Notice(40 * DAY, Kind.CONFLICT, "a/b", "it happened", 7)]
    clock.now += 31 * DAY
    assert [*notices()] == []


async def test_the_newest_stay(tmp_path: Path) -> None:
    notices = Notices(tmp_path, Environment())
    notices.add(Kind.CONFLICT, [(str(number), "t" * (LONGEST + 1)) for number in range(MOST + 5)], 7)
    await notices.store()
    kept = Notices(tmp_path, Environment())()
    assert [notice.path for notice in kept] == [str(number) for number in range(5, MOST + 5)]
    assert {len(notice.text) for notice in kept} == {LONGEST}


async def test_one_that_nobody_needs_any_more_goes(tmp_path: Path) -> None:
    notices = Notices(tmp_path, Environment())
    notices.add(Kind.CONFLICT, [("a", "t"), ("b", "t")], 7)
    await notices.store()
    notices.remove(lambda notice: notice.path == "a")
    await notices.store()
    assert [notice.path for notice in Notices(tmp_path, Environment())()] == ["b"]


@pytest.mark.logs_warnings
async def test_a_file_that_is_none_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "notices.json").write_bytes(b"nonsense")
    notices = Notices(tmp_path, Environment())
    assert "cannot be read" in caplog.text
    notices.add(Kind.CONFLICT, [("a", "t")], 7)
    await notices.store()
    assert [notice.path for notice in Notices(tmp_path, Environment())()] == ["a"]


class FullDisk(Durable):
    def write_file(
        self,
        path: str,
        parts: Sequence[Buffer],
        *,
        exclusive: bool = False,
        mode: int = 0o600,
        folder: int | None = None,
    ) -> None:
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.logs_warnings
async def test_a_full_disk_is_said_and_the_notice_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notices = Notices(tmp_path, Environment(disk=FullDisk()))
    notices.add(Kind.CONFLICT, [("a", "t")], 7)
    await notices.store()
    await notices.store()
    assert caplog.text.count("cannot be written") == 1
    assert [notice.path for notice in notices()] == ["a"]
