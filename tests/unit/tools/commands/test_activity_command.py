"""`drivefs activity`: what a person reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from cache.messages import ACTIVITY, Activity, Call, HappenedShown, PathAsked, PointShown
from tools.commands import activity_command
from tools.drivefs import drivefs

MANY = tuple(HappenedShown("added", f"f{number:02}") for number in range(25))
ANSWER = Activity(
    (
        PointShown(
            9,
            "2001-09-09T014640Z",
            10**18,
            (
                HappenedShown("renamed", quote(b"new\n\xff"), quote("ä".encode())),
                HappenedShown("removed", "d", inside=1200),
                HappenedShown("content", "f"),
            ),
            0,
            device=2,
            host=quote("höst".encode()),
        ),
        PointShown(8, "2001-09-09T014639Z", 10**18 - 10**9, MANY, 1995),
    )
)


class _Mount:
    """Stands for a path in a mount, and for its client."""

    inside = "some%20folder"
    answer = ANSWER
    asked: PathAsked | None = None

    def client(self) -> _Mount:
        return self

    def call(self, call: Call[PathAsked, Activity], question: PathAsked) -> Activity:
        assert call is ACTIVITY
        self.asked = question
        return self.answer


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> _Mount:
    found = _Mount()
    monkeypatch.setattr(activity_command, "DrivePath", lambda _: found)
    return found


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_a_point_is_a_line_with_a_line_for_each_change(
    capsys: pytest.CaptureFixture[str], mount: _Mount
) -> None:
    """A terminal gets no newline of a name."""
    assert drivefs(["activity", "/mnt/some folder", "--limit", "7"]) == 0
    assert mount.asked == PathAsked("some%20folder", 7)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "2001-09-09 01:46:40 +0000  höst",
        r"  renamed     ä -> new\n\xff",
        "  removed     d/ (1,200 inside)",
        "  content     f",
        "2001-09-09 01:46:39 +0000",
        "  added       f00",
    ]
    assert lines[5 + activity_command.MOST_LINES :] == ["  ... and 2,000 more"]


def test_programs_get_all(capsys: pytest.CaptureFixture[str], mount: _Mount) -> None:
    assert drivefs(["activity", "/mnt", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["points"]
    assert [len(point["changes"]) for point in shown] == [3, len(MANY)]
    assert [point.get("device") for point in shown] == [2, None]


def test_without_a_change_that_is_said(capsys: pytest.CaptureFixture[str], mount: _Mount) -> None:
    mount.answer = Activity(())
    assert drivefs(["activity", "/mnt"]) == 0
    assert capsys.readouterr().out == "no published change is known there\n"
