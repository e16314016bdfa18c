"""Names of any bytes, in any locale: the commands do what they are asked, and print for a terminal."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, Result

pytestmark = [pytest.mark.mount]

LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"LC_ALL": "C.UTF-8"},
}
KINDS = (
    b"\x1b[31m",
    b"\n",
    b"\r\t\x07\x7f",
    b"\xff\xfe",
    "日本 €".encode(),
    "\u202e\u009b".encode(),
    b"a b\\,\"'",
    b"-n",
)


def odd_name(generator: random.Random) -> str:
    """A name of some of `KINDS` and of any bytes."""
    parts = [*generator.sample(KINDS, 3), bytes(generator.sample(range(1, 256), 6)).replace(b"/", b"")]
    generator.shuffle(parts)
    return os.fsdecode(b"".join(parts))


def _heed(result: Result, codes: tuple[int, ...] = (0,)) -> str:
    """What was printed, if it is fit for a terminal."""
    said = result.stdout + result.stderr
    assert result.returncode in codes, f"{result.args[3:]}: {result.returncode}: {said}"
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.split("\n")), repr(said)
    return said


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("seed", range(2))
def test_the_commands_bear_every_name(drive: MountedDrive, locale: str, seed: int) -> None:
    generator = random.Random(seed)
    drive.mountpoint = drive.folder / odd_name(generator)
    drive.mountpoint.mkdir()
    drive.environment = LOCALES[locale]
    drive.mount("cache_disk=128M")
    _heed(drive.try_mount(), (32,))
    folder = drive.mountpoint / odd_name(generator)
    file = folder / odd_name(generator)
    folder.mkdir()
    file.write_text("content")
    asked: list[list[str | Path]] = [
        ["sync", drive.mountpoint],
        ["status", drive.mountpoint],
        ["log", file],
        ["activity", drive.mountpoint],
        ["du", drive.mountpoint],
        ["clone", file, f"{file}.clone"],
        ["restore", file, "--at", "latest", "--to", f"{file}.restored"],
        ["diff", drive.mountpoint, "@1"],
        ["pin", drive.mountpoint, "--name", odd_name(generator).lstrip("-")],
        ["pins", drive.mountpoint],
        ["check", drive.mountpoint],
        ["keep", "--wait", folder],
        ["kept", drive.mountpoint],
        ["unkeep", folder],
        ["conflicts", drive.mountpoint],
        ["notices", drive.mountpoint],
        ["device", "list", drive.mountpoint],
    ]
    for command in asked:
        _heed(drive.tool("drivefs", *command))
    assert Path(f"{file}.restored").read_text() == "content"
    refused: list[list[str | Path]] = [
        ["restore", f"{file}.none", "--at", "@1"],
        ["diff", folder, odd_name(generator).lstrip("-")],
        ["status", folder],
        ["keep", f"{folder}.none"],
        ["watch", f"{folder}.none"],
        ["conflicts", "resolve", file, "--keep", "mine"],
        ["undo", drive.mountpoint, "--pin", odd_name(generator).lstrip("-")],
        [odd_name(generator)],
    ]
    for command in refused:
        _heed(drive.tool("drivefs", *command), (1, 2))
    with subprocess.Popen(["sleep", "100"], cwd=drive.mountpoint) as busy:
        try:
            assert "busy" in _heed(drive.tool("umount.drivefs", drive.mountpoint), (32,))
        finally:
            busy.kill()
    _heed(drive.tool("umount.drivefs", "-v", drive.mountpoint))
