"""A drive on six nodes of four kinds: two SeaweedFS, Ceph RGW, Azurite, two folders. With cache and state
and any two of the nodes gone, all is there on another machine. Where a server cannot run this is skipped."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests import servers
from tests.azurite import Azurite
from tests.cut_line import Line, line
from tests.mount.conftest import fuse, unmade_drive
from tests.mount.mounted import MountedDrive, differences, run
from tests.mount.trees import library_part, oddities
from tests.rgw import Rgw
from tests.seaweedfs import Seaweedfs
from tests.seaweedfs import seaweedfs as second_seaweedfs

__all__ = ["fuse", "unmade_drive"]

pytestmark = [pytest.mark.soak, pytest.mark.mount, pytest.mark.timeout(4 * 3600)]

FILES = int(os.environ.get("FILES", "1000000"))
"""of Python's library; it has fewer"""
PAIRS = int(os.environ.get("PAIRS", "15"))
"""of nodes that are gone, from the last one; there are 15"""


class Places:
    """The six nodes, in the order of `urls`. Each can go and come back."""

    def __init__(self, urls: list[str], lines: list[Line], folders: list[Path]) -> None:
        self.urls = urls
        cuts: list[tuple[Callable[[], object], Callable[[], object]]]
        cuts = [(each.cut, each.join) for each in lines]
        self._cuts = [*cuts, *((_hider(each), _shower(each)) for each in folders)]

    def take_away(self, number: int) -> None:
        """The node does not answer any more."""
        self._cuts[number][0]()

    def bring_back(self, number: int) -> None:
        """It is as it was."""
        self._cuts[number][1]()


def _away(folder: Path) -> Path:
    return folder.with_name(f"{folder.name} away")


def _hider(folder: Path) -> Callable[[], object]:
    return lambda: folder.rename(_away(folder))


def _shower(folder: Path) -> Callable[[], object]:
    return lambda: _away(folder).rename(folder)


@pytest.fixture
def places(
    unmade_drive: MountedDrive, seaweedfs: Seaweedfs, rgw: Rgw, azurite: Azurite, other_seaweedfs: Seaweedfs
) -> Iterator[Places]:
    bucket = unmade_drive.folder.name.lower().replace("_", "-")
    for server in (seaweedfs, rgw, azurite, other_seaweedfs):
        server.made(bucket)
    with ExitStack() as stack:
        hosts = (seaweedfs.host, other_seaweedfs.host, rgw.host, azurite.host)
        lines = [stack.enter_context(line(host)) for host in hosts]
        weed, other, ceph, azure = (each.host for each in lines)
        stores = [
            f"{replace(seaweedfs, host=weed).url(bucket, 'n')}?credentials=env:WEED",
            f"{replace(other_seaweedfs, host=other).url(bucket, 'n')}?credentials=env:WEED",
            f"{Rgw(ceph).url(bucket, 'n')}?credentials=env:RGW&etag=bare",
            f"{Azurite(azure).url(bucket, 'n')}?credentials=env:AZURITE",
        ]
        folders = [unmade_drive.folder / f"disk{number}" for number in range(2)]
        yield Places([*stores, *map(str, folders)], lines, folders)


@pytest.fixture
def other_seaweedfs(seaweedfs: Seaweedfs, tmp_path: Path) -> Iterator[Seaweedfs]:
    """A second server, which knows the credentials of the first."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(second_seaweedfs(tmp_path))
        except servers.NoServerError as error:
            pytest.skip(str(error))


def test_any_two_of_six_stores_of_four_kinds_may_be_gone(unmade_drive: MountedDrive, places: Places) -> None:
    drive = unmade_drive
    tree = drive.folder / "tree"
    tree.mkdir()
    library_part(tree / "library", FILES)
    oddities(tree / "odd")
    drive.make(*(argument for url in places.urls for argument in ("--node", url)))
    drive.mount()
    run("cp", "-a", tree, drive.mountpoint, timeout=3600)
    drive.umount()
    for away in [*itertools.combinations(range(6), 2)][-PAIRS:]:
        drive.wipe_cache()
        for number in away:
            places.take_away(number)
        drive.mount()
        assert differences(tree, drive.mountpoint / "tree") == "", away
        drive.umount("-f")
        for number in away:
            places.bring_back(number)


def test_a_second_machine_goes_on_after_the_first_was_killed(
    unmade_drive: MountedDrive, places: Places
) -> None:
    """What the first had synced is there, and the second writes."""
    drive = unmade_drive
    tree = drive.folder / "tree"
    library_part(tree, min(FILES, 300))
    drive.make(*(argument for url in places.urls for argument in ("--node", url)))
    drive.mount()
    run("cp", "-a", tree, drive.mountpoint, timeout=3600)
    drive.sync()
    drive.kill()
    drive.detach()
    drive.wipe_cache()
    drive.mount()
    assert differences(tree, drive.mountpoint / "tree") == ""
    (drive.mountpoint / "of the second").write_bytes(b"here")
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
