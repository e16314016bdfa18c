"""Clearing a node's folder: its identity goes when the rest is gone for good."""

from __future__ import annotations

import os
from pathlib import Path

from backend.nodes import nesting
from backend.system import Durable


class Watched(Durable):
    """Notes what the folder holds whenever it is synced."""

    def __init__(self) -> None:
        self.held: list[list[str]] = []

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        self.held.append(sorted(os.listdir(path)))
        super().sync_folder(path, folder=folder)


def test_a_power_cut_while_a_folder_is_cleared_leaves_what_says_whose_it_is(tmp_path: Path) -> None:
    """Without its identity nobody may clear the rest, and nobody may use the folder."""
    (tmp_path / "packs" / "aa").mkdir(parents=True)
    for name in ("node.toml", "drive.toml", "packs/aa/aa.0", "a", "zoo"):
        (tmp_path / name).write_bytes(b"x")
    disk = Watched()
    nesting.clear(str(tmp_path), disk)
    assert os.listdir(tmp_path) == []
    assert disk.held == [["node.toml"]]
