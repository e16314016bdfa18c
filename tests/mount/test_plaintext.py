"""Nothing that a user wrote is found under the nodes: no content, name, attribute value or link target."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive

pytestmark = pytest.mark.mount

MARKS = {
    "content": b"PLAINTEXT-of-the-content-7f3a",
    "name": b"PLAINTEXT-of-the-name-91bc",
    "folder": b"PLAINTEXT-of-the-folder-5d20",
    "attribute name": b"PLAINTEXT-of-the-attribute-name-c4",
    "attribute value": b"PLAINTEXT-of-the-attribute-value-a8",
    "target": b"PLAINTEXT-of-the-target-33ee",
}


def found_in(folder: Path) -> list[str]:
    """Which marks are in the files under `folder`, or in their names."""
    everything = b"\n".join(
        os.fsencode(path) + b"\n" + (path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )
    return [what for what, mark in MARKS.items() if mark in everything]


def write_marks(folder: Path) -> None:
    inside = folder / os.fsdecode(MARKS["folder"])
    inside.mkdir()
    path = inside / os.fsdecode(MARKS["name"])
    path.write_bytes(MARKS["content"] * 3 + os.urandom(300_000) + MARKS["content"])
    os.setxattr(path, b"user." + MARKS["attribute name"], MARKS["attribute value"])
    (inside / "link").symlink_to(os.fsdecode(MARKS["target"]))


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    write_marks(tmp_path)
    assert found_in(tmp_path) == ["content", "name", "folder"]


def test_no_plaintext_under_the_drive(drive: MountedDrive) -> None:
    drive.mount("commit_interval=100ms")
    write_marks(drive.mountpoint)
    drive.sync()
    assert found_in(drive.drive) == []
    drive.umount()
    assert found_in(drive.drive) == []
    assert any(path.is_file() for path in (drive.nodes()[0] / "packs").rglob("*"))
