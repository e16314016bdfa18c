"""The drive of dictionaries that mount tests mount has all that the door asks of a drive."""

from __future__ import annotations

import re
from pathlib import Path

import mountfs
from tests.mount.memory_drive import MemoryDrive

ELSEWHERE = {"past"}
"""What it has none of: its mounts show no earlier states."""


def test_it_has_what_the_door_asks_for() -> None:
    (folder,) = mountfs.__path__
    asked = {
        name
        for path in Path(folder).glob("*.py")
        for name in re.findall(r"\bself\._drive\.(\w+)", path.read_text())
    }
    assert len(asked) > 20
    drive = MemoryDrive()
    assert sorted(name for name in asked - ELSEWHERE if not hasattr(drive, name)) == []
