"""Failpoints: silent when unarmed, exact when armed, and unknown names are refused."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend.failpoints import FAILPOINTS, OF_PROCESS, Failpoints, declare
from tests.declared_failpoints import DECLARED

NAME = declare("test.place", "nothing has happened")


@pytest.fixture
def failpoints() -> Failpoints:
    return Failpoints()


def test_an_unarmed_place_does_nothing(failpoints: Failpoints) -> None:
    failpoints.reached(NAME)
    assert failpoints.hits[NAME] == 0


@pytest.mark.parametrize(("action", "number"), [("eio", errno.EIO), ("enospc", errno.ENOSPC)])
def test_an_armed_place_fails_from_the_wanted_time_on(
    failpoints: Failpoints, action: str, number: int
) -> None:
    failpoints.arm(NAME, action, skip=2)
    failpoints.reached(NAME)
    failpoints.reached(NAME)
    for _ in range(2):
        with pytest.raises(OSError, match=NAME) as caught:
            failpoints.reached(NAME)
        assert caught.value.errno == number
    assert failpoints.hits[NAME] == 4
    failpoints.disarm_all()
    failpoints.reached(NAME)


def test_counting_changes_nothing_else(failpoints: Failpoints) -> None:
    failpoints.arm(NAME)
    failpoints.reached(NAME)
    assert failpoints.hits[NAME] == 1


def test_the_environment_arms_and_the_seen_file_tells(
    failpoints: Failpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("DRIVEFS_FAILPOINTS", f"{NAME}=eio*1")
    monkeypatch.setenv("DRIVEFS_FAILPOINTS_SEEN", str(seen))
    failpoints.arm_from_environment()
    failpoints.reached(NAME)
    assert not seen.exists()
    with pytest.raises(OSError, match=NAME):
        failpoints.reached(NAME)
    assert seen.read_text() == f"{NAME}\n"


@pytest.mark.parametrize("value", ["no.such.place=eio", f"{NAME}=explode", f"{NAME}=eio*x"])
def test_a_wrong_setting_is_refused(
    failpoints: Failpoints, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DRIVEFS_FAILPOINTS", value)
    with pytest.raises(ValueError, match=r"unknown failpoint|invalid literal"):
        failpoints.arm_from_environment()


def test_kill_is_sigkill(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = (
        "from backend import failpoints as f; f.declare('a', ''); f.OF_PROCESS.arm_from_environment();"
        "f.OF_PROCESS.reached('a'); print('alive')"
    )
    environment = {"DRIVEFS_FAILPOINTS": "a=kill", "DRIVEFS_FAILPOINTS_SEEN": str(seen)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == b""
    assert seen.read_text() == "a\n"


def test_what_is_armed_for_one_device_passes_others(failpoints: Failpoints) -> None:
    failpoints.arm(NAME, "eio")
    OF_PROCESS.reached(NAME)
    Failpoints().reached(NAME)
    with pytest.raises(OSError, match=NAME):
        failpoints.reached(NAME)
    assert OF_PROCESS.hits[NAME] == 0


def test_every_failpoint_says_what_has_and_has_not_happened() -> None:
    assert all(state for state in FAILPOINTS.values())


def test_every_failpoint_is_declared_by_its_text() -> None:
    """What goes through all of them finds them in the source (`tests.declared_failpoints`)."""
    assert sorted(FAILPOINTS.keys() - DECLARED.keys() - {NAME}) == []
