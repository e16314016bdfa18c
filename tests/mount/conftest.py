"""Drives for the tests on real mounts: each is taken away again, also when the test failed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mount.hub_mounts import Account, Away
from tests.mount.mounted import MountedDrive, new_folder, taken_away

NewDrive = Callable[[], MountedDrive]


@pytest.fixture(scope="session")
def fuse() -> None:
    """Skip where nothing can be mounted."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse: this system cannot mount")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this user may not open /dev/fuse")
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed")


@contextmanager
def temporary_drive() -> Iterator[MountedDrive]:
    """A drive that is not made yet, in a new folder; everything of it is gone afterwards."""
    with taken_away(MountedDrive(new_folder())) as drive:
        yield drive


@pytest.fixture(scope="module")
def hub(fuse: None) -> Iterator[Away]:
    """A hub of the module's own, which its tests may stop and start again."""
    found = Away()
    yield found
    found.stop()


@pytest.fixture
def account(hub: Away) -> Account:
    """A new account at the hub, with one drive."""
    return Account(hub.running)


@pytest.fixture
def unmade_drive(fuse: None) -> Iterator[MountedDrive]:
    """A drive's folders, and nothing in them."""
    with temporary_drive() as drive:
        yield drive


@pytest.fixture
def drive(unmade_drive: MountedDrive) -> MountedDrive:
    """A new drive, not mounted."""
    unmade_drive.make()
    return unmade_drive


@pytest.fixture(scope="module")
def module_drives(fuse: None) -> Iterator[NewDrive]:
    """Makes drives that last as long as the module's tests."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(temporary_drive())


@pytest.fixture(scope="module")
def shared(module_drives: NewDrive, request: pytest.FixtureRequest) -> MountedDrive:
    """One mounted drive for all tests of a module; each works in a folder of its own. As root they act as
    other users too. The module's SHARED_OPTIONS are options of the mount."""
    drive = module_drives()
    drive.make()
    options = getattr(request.module, "SHARED_OPTIONS", ())
    drive.mount(*options, *(["allow_other"] if os.geteuid() == 0 else []))
    return drive


@pytest.fixture
def place(shared: MountedDrive, request: pytest.FixtureRequest) -> Path:
    """A new folder on the shared mount."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    folder = shared.mountpoint / name
    folder.mkdir()
    return folder
