"""The drive of dictionaries that mount tests mount, and the one by nodes, have all that the door asks of a
drive."""

from __future__ import annotations

import re
from pathlib import Path

import mountfs
from mountfs.node_drive import NodeDrive
from tests.drives import opened
from tests.memory_upstream import MemoryUpstream
from tests.mount.memory_drive import MemoryDrive

ELSEWHERE = {"past", "reach_head", "doing_elsewhere"}
"""Calls that it has none of: its mounts show no earlier states, and no other device writes."""


def asked_by(pattern: str) -> set[str]:
    (folder,) = mountfs.__path__
    return {
        name
        for path in Path(folder).glob(pattern)
        if path.stem != "node_drive"
        for name in re.findall(r"\bself\._drive\.(\w+)", path.read_text())
    }


def test_it_has_what_the_door_asks_for() -> None:
    asked = asked_by("*.py")
    assert len(asked) > 20
    drive = MemoryDrive()
    assert sorted(name for name in asked - ELSEWHERE if not hasattr(drive, name)) == []


async def test_so_has_a_drive_by_nodes(tmp_path: Path) -> None:
    asked = asked_by("*_handlers.py") | asked_by("handler_base.py")
    assert len(asked) > 20
    async with opened(tmp_path, MemoryUpstream()) as drive:
        nodes = NodeDrive(drive)
        assert sorted(name for name in asked if not hasattr(nodes, name)) == []
