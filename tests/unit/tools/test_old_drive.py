"""tools.old_drive: what `mkfs.drivefs --force` may remove."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity
from tests.fake_s3 import FakeS3, Fault, failed, fake_s3
from tools import old_drive

OTHERS = NodeIdentity("node0", bytes(range(16)), "zone0")
BUSY = failed(503, "SlowDown")


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


def test_a_node_of_which_nobody_can_tell_whether_it_has_data_stays(server: FakeS3, tmp_path: Path) -> None:
    (tmp_path / "drive.toml").write_bytes(b"what is left of the old drive")
    empty, others = (
        place_at(server.node_url(name), "/", {"credentials": "env:FAKE"}) for name in ("empty", "others")
    )
    for place in (empty, others):
        place.initialise(OTHERS)
    server.objects["others/packs/ab/fragment"] = b"x"
    before = dict(server.objects)
    server.faults = [Fault("GET", "/bucket", BUSY) for _ in range(3)]
    with pytest.raises(OSError, match="SlowDown"):
        old_drive.remove(str(tmp_path), [others, empty])
    assert server.objects == before
    assert (tmp_path / "drive.toml").exists()


def test_a_folder_that_cannot_be_looked_into_stays(tmp_path: Path) -> None:
    (tmp_path / "drive.toml").write_bytes(b"what is left of the old drive")
    place = DirectoryPlace(str(tmp_path / "node"))
    place.initialise(OTHERS)
    (tmp_path / "node" / "packs").symlink_to("packs")
    with pytest.raises(OSError, match="symbolic links"):
        old_drive.remove(str(tmp_path), [place])
    assert place.identity("node0") == OTHERS
    assert (tmp_path / "drive.toml").exists()
