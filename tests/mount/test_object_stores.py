"""Drives whose nodes are in object stores: made, written, remounted, checked, with a store away and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.defaults import STORE_COMMIT_INTERVAL
from tests.azurite import Azurite
from tests.contents import content
from tests.fake_google import fake_google
from tests.fake_s3 import FakeS3, fake_s3
from tests.mount.mounted import MountedDrive, succeed
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY, Seaweedfs

pytestmark = pytest.mark.mount

STORED_WITH_LESS = 64
SIZES = (10, 300_000, 3_000_000)
FILES = {f"{kind}-{size}": content(kind, size) for kind in ("random", "text") for size in SIZES}


@pytest.fixture
def drive(unmade_drive: MountedDrive) -> MountedDrive:
    """Not made. Its commands know the credentials of the server for tests, by a file as people have it."""
    path = unmade_drive.folder / "credentials"
    path.touch(mode=0o600)
    path.write_text(f'access_key_id = "{ACCESS_KEY}"\nsecret_access_key = "{SECRET_KEY}"\n')
    return unmade_drive


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


def stores(server: Seaweedfs, count: int) -> list[str]:
    """URLs of places for nodes, in two buckets."""
    top = uuid.uuid4().hex
    for bucket in ("first", "second"):
        server.made(bucket)
    return [server.url(("first", "second")[number % 2], f"{top}/{number}") for number in range(count)]


def nodes(places: list[str]) -> list[str]:
    return [argument for place in places for argument in ("--node", place)]


def write(drive: MountedDrive) -> None:
    for name, data in FILES.items():
        (drive.mountpoint / name).write_bytes(data)


def holds_all(drive: MountedDrive) -> bool:
    return all((drive.mountpoint / name).read_bytes() == data for name, data in FILES.items())


def test_a_drive_on_six_stores(drive: MountedDrive, seaweedfs: Seaweedfs) -> None:
    """Made, written, read on another machine, checked; no secret anywhere in what is written."""
    drive.make("--credentials", f"file:{drive.folder / 'credentials'}", *nodes(stores(seaweedfs, 6)))
    drive.mount()
    write(drive)
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    assert holds_all(drive)
    assert set(states(drive).values()) == {"ok"}
    drive.umount()
    drive.mount()
    assert holds_all(drive)
    cache = drive.status().disk_cache
    assert cache is not None, "nodes that are no folders have a disk cache before them"
    assert cache.hits > 0
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
    table = (drive.drive / "drive.toml").read_text()
    assert f'credentials = "file:{drive.folder / "credentials"}"' in table
    assert SECRET_KEY not in table + drive.log()


def test_a_store_beside_folders_goes_and_comes_back(drive: MountedDrive, server: FakeS3) -> None:
    """Four stores and two folders. While one store does not answer all is read and written; when it does
    again, it gets what it lacks."""
    with fake_s3() as away:
        urls = [*(server.node_url(f"place{number}") for number in range(3)), away.node_url()]
        folders = [str(drive.folder / f"disk{number}") for number in range(2)]
        drive.make("--credentials", "env:FAKE", *nodes([*urls, *folders]))
        drive.mount()
        assert drive.status().commit_interval == STORE_COMMIT_INTERVAL
        write(drive)
        drive.sync()
        buckets, away.buckets = away.buckets, {}
        (drive.mountpoint / "while it is away").write_bytes(content("random", 300_000, seed=2))
        lacking = drive.tool("umount.drivefs", drive.mountpoint)
        assert lacking.returncode == STORED_WITH_LESS
        assert "all is stored" in lacking.stderr
        assert "fragments on node3" in lacking.stderr
        drive.wipe_cache()
        drive.mount()
        assert holds_all(drive)
        found = states(drive)
        assert "is not a node (node.toml is missing); is its bucket there?" in found.pop("node3")
        assert set(found.values()) == {"ok"}
        away.buckets = buckets
        succeed(drive.tool("drivefs", "repair", drive.mountpoint))
        drive.umount()
        assert drive.fsck("-n", "--data") == 0
        assert fragments(away) == fragments_in(Path(folders[0]))


def states(drive: MountedDrive) -> dict[str, str]:
    store = drive.status().store
    assert store is not None
    return {node.name: node.state for node in store.nodes}


def fragments(server: FakeS3) -> int:
    return sum(key.startswith("prefix/packs/") for key in server.objects)


def fragments_in(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "packs").rglob("*"))


def test_a_store_becomes_a_node_if_of_two_writers_one_is_the_first(
    drive: MountedDrive, server: FakeS3
) -> None:
    """Else mkfs, node add and node replace refuse it in words, and leave nothing in it."""
    key, folder = ["--key-file", str(drive.key)], str(drive.drive)
    first, second = (f"{server.node_url(name)}?credentials=env:FAKE" for name in ("first", "second"))
    drive.make()
    server.ignores_conditions = True
    refused = [
        drive.tool("mkfs.drivefs", "--profile", "copies:1", "--node", first, *key, drive.folder / "other"),
        drive.tool("drivefs", "node", "add", first, folder, *key),
        drive.tool("drivefs", "node", "replace", folder, "node0", second, *drive.where()),
    ]
    assert server.objects == {}
    for each in refused:
        assert each.returncode != 0
        assert "8 were told that they were the first" in each.stderr
    server.ignores_conditions = False
    succeed(drive.tool("drivefs", "node", "add", first, folder, *key))
    succeed(drive.tool("drivefs", "node", "replace", folder, "node0", second, *drive.where()))
    drive.mount()
    write(drive)
    drive.sync()
    assert set(states(drive).values()) == {"ok"}
    assert {name.partition("/")[0] for name in server.objects if "/packs/" in name} == {"first", "second"}


def test_a_drive_on_stores_of_every_kind_outlives_any_two(
    drive: MountedDrive, seaweedfs: Seaweedfs, azurite: Azurite
) -> None:
    """S3, Azure, Google and folders; read on another machine, with two of them away."""
    azurite.made("drive")
    with fake_google() as google:
        folders = [str(drive.folder / f"disk{number}") for number in range(2)]
        places = [
            *(f"{url}?credentials=env:WEED" for url in stores(seaweedfs, 2)),
            f"{azurite.url('drive', uuid.uuid4().hex)}?credentials=env:AZURITE",
            f"{google.node_url()}?credentials=env:FAKE_GOOGLE",
            *folders,
        ]
        drive.make(*nodes(places))
        drive.mount()
        write(drive)
        drive.umount()
        buckets, google.buckets = google.buckets, {}
        Path(folders[0]).rename(f"{folders[0]}-away")
        drive.wipe_cache()
        drive.mount()
        assert holds_all(drive)
        assert {name for name, state in states(drive).items() if state != "ok"} == {"node3", "node4"}
        google.buckets = buckets
        Path(f"{folders[0]}-away").rename(folders[0])
        drive.umount()
        assert drive.fsck("-n", "--data") == 0
