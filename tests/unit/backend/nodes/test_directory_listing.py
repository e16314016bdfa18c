"""backend.nodes.directory_listing and files: a node's folders that others change while they are listed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from backend.errors import NodeError
from backend.nodes import directory_listing
from backend.nodes import files as node_files
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity, initialise_directory_node

DRIVE = bytes(range(16))
FOLDERS = ("00", "7f", "ff")


def _linked(folder: Path) -> None:
    folder.rename(folder.with_name(".moved"))
    folder.symlink_to(".moved")


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"no folder")


SWAPS: dict[str, Callable[[Path], object]] = {"link": _linked, "file": _a_file, "nothing": shutil.rmtree}


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """A node's folder of packs, with two objects in each folder."""
    initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    for folder in FOLDERS:
        (tmp_path / "packs" / folder).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "packs" / folder / name).touch()
    return tmp_path / "packs"


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("swapped", FOLDERS)
async def test_a_folder_that_is_swapped_while_it_is_listed_hides_no_other(
    packs: Path, swapped: str, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its name and its opening."""
    names = directory_listing.names_in
    swaps = 0

    def swapping(folder: int, below: str, after: str, limit: int) -> list[str]:
        nonlocal swaps
        found = names(folder, below, after, limit)
        if below == "packs/":
            swaps += 1
            SWAPS[swap](packs / swapped)
        return found

    monkeypatch.setattr(directory_listing, "names_in", swapping)
    node = DirectoryNode(str(packs.parent), NodeIdentity("node0", DRIVE, "zone0"))
    with trio.fail_after(20):
        found = await node.keys("packs/")
    assert swaps == 1
    assert found == [f"packs/{each}/{name}" for each in FOLDERS if each != swapped for name in "ab"]


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("swapped", FOLDERS)
def test_a_walk_goes_on_behind_a_folder_that_is_swapped(packs: Path, swapped: str, swap: str) -> None:
    with node_files.opened_folder(str(packs)) as top:
        walk = node_files.walk(top)
        assert next(walk)[0] == ""
        SWAPS[swap](packs / swapped)
        found = {below: sorted(files) for below, _, files in walk}
    assert found == {f"{each}/": ["a", "b"] for each in FOLDERS if each != swapped}


@pytest.mark.parametrize("swap", SWAPS)
async def test_what_is_no_folder_has_no_keys_but_a_node_that_is_none_is_away(packs: Path, swap: str) -> None:
    """The first is damage of one folder, which repair makes good; the second must not look like it."""
    node = DirectoryNode(str(packs.parent), NodeIdentity("node0", DRIVE, "zone0"))
    SWAPS[swap](packs)
    assert await node.keys("packs/") == []
    assert await node.keys("packs/00/") == []
    assert await node.keys("") == (["packs"] if swap == "file" else [])
    shutil.rmtree(packs.parent)
    packs.parent.write_bytes(b"no folder")
    for prefix in ("", "packs/", "packs/00/"):
        with pytest.raises(NodeError):
            await node.keys(prefix)
