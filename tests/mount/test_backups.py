"""Backups kept on a mount, made and proved by the programs themselves: borg, restic, rsync."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, differences, run
from tests.mount.trees import library_part, oddities

pytestmark = pytest.mark.mount

GIBIBYTE = 1 << 30


class Tree:
    """A tree on the local disk that is backed up, changed, and backed up again."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "tree"
        self.first = folder / "first"
        library_part(self.top / "library", 80)
        oddities(self.top / "odd")
        run("cp", "-a", self.top, self.first)

    def change(self) -> None:
        (self.top / "odd" / "file").write_bytes(b"changed" * 1000)
        (self.top / "odd" / "second name").unlink()
        (self.top / "large").write_bytes(os.urandom(3_000_000))


@pytest.fixture
def local(shared: MountedDrive, request: pytest.FixtureRequest) -> Path:
    """A new folder on the local disk."""
    folder = shared.folder / f"local-{abs(hash(request.node.name))}"
    folder.mkdir()
    return folder


def command(name: str, **environment: str) -> Callable[..., str]:
    """The program `name`, to be called with its arguments."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return lambda *arguments, **options: run(name, *arguments, env=os.environ | environment, **options)


@pytest.mark.soak
def test_borg(shared: MountedDrive, place: Path, local: Path) -> None:
    borg = command("borg", BORG_BASE_DIR=str(local), BORG_PASSPHRASE="a")
    tree, repository = Tree(local), place / "repository"
    borg("init", "--encryption=repokey-blake2", repository)
    borg("create", f"{repository}::one", "tree", cwd=local)
    tree.change()
    borg("create", f"{repository}::two", "tree", cwd=local)
    shared.sync()
    borg("check", "--verify-data", repository)
    (local / "out").mkdir()
    borg("extract", f"{repository}::one", cwd=local / "out")
    assert differences(tree.first, local / "out" / "tree") == ""
    borg("delete", f"{repository}::one")
    borg("compact", repository)
    borg("check", "--verify-data", repository)
    borg("extract", f"{repository}::two", cwd=place)
    assert differences(tree.top, place / "tree") == ""


@pytest.mark.soak
def test_restic(shared: MountedDrive, place: Path, local: Path) -> None:
    restic = command(
        "restic",
        RESTIC_PASSWORD="a",
        RESTIC_CACHE_DIR=str(local / "cache"),
        RESTIC_REPOSITORY=str(place / "repository"),
    )
    tree = Tree(local)
    restic("init")
    restic("backup", "tree", cwd=local)
    tree.change()
    restic("backup", "tree", cwd=local)
    shared.sync()
    restic("check", "--read-data")
    restic("restore", "latest", "--target", place)
    assert differences(tree.top, place / "tree") == ""
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")


def test_rsync_of_sparse_files(shared: MountedDrive, place: Path, local: Path) -> None:
    """-aHAXS: what was no data takes no room, there and back."""
    with open(local / "sparse", "wb") as file:
        file.write(b"first")
        file.seek(GIBIBYTE // 16)
        file.write(b"last")
        file.truncate(GIBIBYTE // 8)
    run("rsync", "-aHAXS", local / "sparse", place / "sparse")
    shared.sync()
    assert (place / "sparse").stat().st_size == GIBIBYTE // 8
    assert (place / "sparse").stat().st_blocks * 512 < 1 << 20
    run("rsync", "-aHAXS", place / "sparse", local / "back")
    run("cmp", local / "sparse", local / "back")
    assert (local / "back").stat().st_blocks * 512 < 1 << 20
