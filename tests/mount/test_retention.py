"""Retention, pins, space and `du` by the commands that people use, on a real mount."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounted import MountedDrive

pytestmark = pytest.mark.mount

ZERO = ("--all", "0", "--hourly", "0", "--daily", "0", "--weekly", "0")


def drivefs(drive: MountedDrive, *arguments: str | Path) -> Any:
    """What the command says, as JSON where it speaks it."""
    result = drive.tool("drivefs", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def stored(drive: MountedDrive) -> int:
    return sum(path.stat().st_size for path in drive.drive.rglob("packs/*/*"))


def test_space_comes_back_and_pins_keep(drive: MountedDrive) -> None:
    drive.mount()
    point = drive.mountpoint
    (point / "kept").write_bytes(b"kept" * 1000)
    drivefs(drive, "snapshot", point, "first")
    before = stored(drive)
    (point / "big").write_bytes(os.urandom(16 << 20))
    drivefs(drive, "sync", point)
    held = stored(drive) - before
    (point / "big").unlink()
    (point / "kept").write_bytes(b"new" * 1000)
    drivefs(drive, "sync", point)
    usage = drivefs(drive, "du", point, "--json")
    assert usage["live"]["plain"] == 3000
    assert usage["history"]["plain"] == (16 << 20) + 4000
    assert "history adds" in drivefs(drive, "du", point / "kept")
    (point / "folder/inner").mkdir(parents=True)
    drivefs(drive, "clone", point / "kept", point / "folder/inner/copy")
    listed = drivefs(drive, "du", point, "--depth", "2", "--json")["folders"]
    assert [(each["path"], each["live"]["plain"]) for each in listed] == [
        ("folder/inner", 3000),
        ("folder", 3000),
    ]
    assert drivefs(drive, "du", point).splitlines()[1].split()[-1] == str(point / "folder")
    assert len(drivefs(drive, "du", point, "--depth", "0").splitlines()) == 2
    assert "0 states would go" in drivefs(drive, "retention", "preview", point)
    preview = drivefs(drive, "retention", "preview", point, *ZERO, "--json")
    assert preview["freed"]["plain"] == 0
    assert preview["freed"]["sealed"] > 16 << 20
    drivefs(drive, "retention", "set", point, *ZERO)
    assert "every state" in drivefs(drive, "retention", "show", point)
    assert "would go" in drivefs(drive, "gc", point, "--dry-run")
    assert stored(drive) - before > 0.99 * held
    assert "given back" in drivefs(drive, "gc", point, "--grace", "0")
    assert stored(drive) - before <= 0.05 * held
    assert (point / "kept").read_bytes() == b"new" * 1000
    (pin,) = drivefs(drive, "pins", point, "--json")["pins"]
    assert pin["name"] == "first"
    assert (point / f".versions/@{pin['commit']}/kept").read_bytes() == b"kept" * 1000
    drivefs(drive, "unpin", point, "first")
    assert drivefs(drive, "pins", point) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("retention", "set", "MOUNT"),
        ("retention", "set", "MOUNT", "--all", "soon"),
        ("retention", "show", "/"),
        ("gc", "MOUNT", "--grace", "-1h"),
        ("unpin", "MOUNT", "unknown"),
        ("pin", "MOUNT", "never"),
        ("pin", "MOUNT", "2099-01-01"),
        ("du", "/"),
        ("du", "MOUNT", "--depth", "-1"),
        ("du", "MOUNT/absent"),
    ],
)
def test_bad_input_is_one_clear_line(shared: MountedDrive, arguments: tuple[str, ...]) -> None:
    real = [text.replace("MOUNT", str(shared.mountpoint)) for text in arguments]
    result = shared.tool("drivefs", *real)
    assert result.returncode in (1, 2)
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr
