"""Retention, pins, space and `du` by the commands that people use, on a real mount."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounted import MountedDrive, differences, succeed, wait_for_end

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
    drivefs(drive, "pin", point, "--name", "first")
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


STEPS = [
    "retention.accepted",
    "retention.published",
    "retention.forgetting",
    "collector.marked",
    "collector.released",
    "compaction.forgotten",
    "compaction.written",
    "compaction.moved",
    "compaction.doomed",
    "compaction.deleting*5",
    "compaction.deleted",
]
"""Where the mount is killed while it gives space back, in the order in which they are met."""
DROPPED_MIB = int(os.environ.get("DROPPED_MIB", "1024"))


def write_among(point: Path, mebibytes: int) -> None:
    """So much unique data in `big`; after each 16 MiB of it a file in `kept`, which shares packs with it."""
    source = random.Random(3)
    for number in range(mebibytes // 16):
        (point / f"big/{number}").write_bytes(source.randbytes(16 << 20))
        (point / f"kept/{number}").write_bytes(source.randbytes(200_000))


def killed_while_collecting(drive: MountedDrive, step: str) -> None:
    """`drivefs gc`, in which the mount is killed at a failpoint; then it is mounted again."""
    name, _, skip = step.partition("*")
    seen = drive.folder / "seen"
    seen.unlink(missing_ok=True)
    drive.umount()
    drive.environment = {
        "DRIVEFS_FAILPOINTS": f"{name}=kill*{skip or 0}",
        "DRIVEFS_FAILPOINTS_SEEN": str(seen),
    }
    drive.mount()
    assert drive.process_id is not None
    assert drive.tool("drivefs", "gc", drive.mountpoint, "--grace", "0", timeout=600).returncode == 1
    wait_for_end(drive.process_id)
    assert seen.read_text() == f"{name}\n"
    drive.environment = {}
    drive.remount()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_a_gibibyte_comes_back_and_nothing_else_goes(drive: MountedDrive) -> None:
    """Deleted, dropped by retention and collected, with a kill at each step on the way: what is live and
    what is pinned is whole each time; at the end the nodes have given back 95 % of what it held."""
    drive.mount()
    point = drive.mountpoint
    for folder in ("kept", "big"):
        (point / folder).mkdir()
    empty = drive.bytes_on_nodes()
    write_among(point, DROPPED_MIB)
    drive.sync()
    shutil.copytree(point / "kept", drive.folder / "pinned")
    shutil.rmtree(point / "big")
    drivefs(drive, "pin", point, "--name", "pinned")
    (commit,) = (pin["commit"] for pin in drivefs(drive, "pins", point, "--json")["pins"])
    for path in sorted((point / "kept").iterdir())[::2]:
        path.write_bytes(path.read_bytes()[::-1])
    drive.sync()
    shutil.copytree(point / "kept", drive.folder / "live")
    kept = sum(path.stat().st_size for name in ("pinned", "live") for path in (drive.folder / name).iterdir())
    held = drive.bytes_on_nodes() - empty
    assert held > 1.5 * (DROPPED_MIB << 20)

    def check() -> None:
        assert differences(drive.folder / "live", point / "kept") == ""
        assert differences(drive.folder / "pinned", point / f".versions/@{commit}/kept") == ""

    drivefs(drive, "retention", "set", point, *ZERO)
    for step in STEPS:
        killed_while_collecting(drive, step)
        check()
    drivefs(drive, "gc", point, "--grace", "0")
    check()
    left = drive.bytes_on_nodes() - empty
    print(f"{held} bytes held for {DROPPED_MIB} MiB and {kept} bytes that stay; {left} bytes left")
    assert left < 0.05 * 1.5 * (DROPPED_MIB << 20) + 1.6 * kept
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    check()
    assert succeed(drive.tool("drivefs", "check", point, timeout=600))


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
