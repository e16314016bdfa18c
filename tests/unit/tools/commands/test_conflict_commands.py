"""`drivefs conflicts`: what a person reads."""

from __future__ import annotations

import json
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from cache.messages import Conflicts, ConflictShown, VersionShown
from tools.commands import conflict_commands
from tools.drivefs import drivefs


def test_each_conflict_is_two_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets no newline of a name, and those that we mean."""
    copy = ConflictShown(quote(b"a (conflict)\n\xff"), quote("ä".encode()), 10**18, 5, "one")
    version = VersionShown("b", 10**18, 6, "two", 9)
    monkeypatch.setattr(conflict_commands, "ask_mount", lambda *_: Conflicts((copy,), (version,)))
    assert drivefs(["conflicts", "/mnt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == [r"a (conflict)\n\xff", "b"]
    assert lines[1].startswith("    a copy of ä; ")
    assert lines[1].endswith("  of one, on commit 5")
    assert lines[3].startswith("    a version, not shown, as of commit 9; ")
    assert len(lines) == 4


def test_without_a_conflict_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflict_commands, "ask_mount", lambda *_: Conflicts(()))
    assert drivefs(["conflicts", "/mnt"]) == 0
    assert capsys.readouterr().out == "there are no conflicts\n"


def test_each_conflict_that_is_resolved_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = ConflictShown(quote(b"a (conflict)\n"), quote("ä".encode()), 10**18, 5, "one")
    version = VersionShown("b", 10**18, 6, "two", 9)
    place = Mock()
    place.client().call.return_value = Conflicts((copy,), (version,))
    monkeypatch.setattr(conflict_commands, "DrivePath", lambda _: place)
    assert drivefs(["conflicts", "resolve", "/mnt/a", "--keep", "mine"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        r"a (conflict)\n: mine, of ä",
        "b: mine, of the version as of commit 9",
    ]
    assert drivefs(["conflicts", "resolve", "/mnt/a", "--keep", "mine", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["copies"]) == 1
