"""Two machines at a real hub, through the kernel: each sees which files the other has open for writing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.mount.hub_mounts import Account, HubMachine, soon

pytestmark = pytest.mark.mount


@pytest.fixture
def machines(account: Account) -> Iterator[tuple[HubMachine, HubMachine]]:
    """With the drive mounted."""
    with account.machine() as first, account.machine() as second:
        first.mount()
        second.mount()
        yield first, second


def test_a_file_that_is_open_for_writing_elsewhere_says_so(
    machines: tuple[HubMachine, HubMachine],
) -> None:
    first, second = machines
    (first.mountpoint / "plan").write_bytes(b"base")
    soon(lambda: second.has("plan", b"base"))
    there = second.mountpoint / "plan"

    def editing() -> str:
        try:
            return os.getxattr(there, "user.drivefs.editing").decode()
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return ""

    assert editing() == ""
    with (first.mountpoint / "plan").open("r+b"):
        soon(lambda: editing() != "")
        assert editing().startswith("open for writing on ")
        assert "plan: open for writing on " in second.tool("drivefs", "notices", second.mountpoint).stdout
        assert "user.drivefs.editing" not in os.listxattr(there)
        with pytest.raises(PermissionError):
            os.setxattr(there, "user.drivefs.editing", b"me")
        with pytest.raises(OSError, match="No data"):
            os.getxattr(first.mountpoint / "plan", "user.drivefs.editing")
    soon(lambda: editing() == "")
