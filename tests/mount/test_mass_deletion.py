"""`rm -rf` of too much on a real mount, by the commands that people use: said, undone, and watched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, differences, run, succeed
from tests.waiting import wait_until

pytestmark = pytest.mark.mount

PATIENCE = 60.0


def answer(drive: MountedDrive, command: str) -> Any:
    return json.loads(succeed(drive.tool("drivefs", command, drive.mountpoint, "--json")))


def wait_for_notice(drive: MountedDrive) -> None:
    wait_until(lambda: bool(answer(drive, "status")["notices"]))


def test_a_tree_that_was_removed_is_back_with_one_command(drive: MountedDrive) -> None:
    source = drive.folder / "source"
    for number in range(150):
        path = source / f"d/{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(KINDS[number % len(KINDS)], 100 * number, number))
    drive.mount()
    run("cp", "-a", source / "d", drive.mountpoint / "d")
    drive.sync()
    run("rm", "-rf", drive.mountpoint / "d")
    wait_for_notice(drive)
    drive.remount()
    assert "150 files were deleted" in answer(drive, "notices")["notices"][0]["text"]
    assert "notices" in succeed(drive.tool("drivefs", "status", drive.mountpoint))
    assert "are back" in succeed(drive.tool("drivefs", "undo", drive.mountpoint))
    assert differences(source / "d", drive.mountpoint / "d") == ""
    assert not answer(drive, "notices")["notices"]
    (pin,) = answer(drive, "pins")["pins"]
    assert pin["name"].startswith("mass-deletion ")


def watching(drive: MountedDrive, folder: Path) -> subprocess.Popen[str]:
    program = f"import sys; sys.argv[0] = 'drivefs'; from {drive.programs['drivefs']} import main; main()"
    command = [sys.executable, "-c", program, "watch", str(folder), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=drive.variables())


def test_what_another_door_does_is_watched_until_the_mount_ends(drive: MountedDrive) -> None:
    drive.mount()
    place = drive.mountpoint / "place"
    (place / "folder").mkdir(parents=True)
    (place / "folder/f").write_bytes(b"data")
    with watching(drive, place) as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["change"] == "rescan"
        shutil.copy(place / "folder/f", place / "by a program")
        succeed(drive.tool("drivefs", "clone", place / "folder", place / "copy"))
        told = json.loads(watch.stdout.readline())
        assert (told["change"], told["path"], told["here"]) == ("name", "place/copy", True)
        drive.umount()
        assert watch.wait(PATIENCE) == 0
        rest = [json.loads(line) for line in watch.stdout]
        assert all(line["path"] != "place/by%20a%20program" for line in rest)
