"""A machine whose hub is away when its drive is mounted, through the kernel."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from tests.contents import KINDS, content
from tests.mount.hub_mounts import Account, Away, soon
from tests.mount.mounted import succeed

pytestmark = [pytest.mark.mount, pytest.mark.logs_warnings]  # of the hub, whose polls are cut off

FILES = {kind: content(kind, 200_000, 1) for kind in KINDS}


def test_a_machine_mounts_works_and_keeps_its_folder_without_the_hub(hub: Away, account: Account) -> None:
    with account.machine() as first, account.machine() as second:
        first.mount()
        (first.mountpoint / "kept").mkdir()
        for kind, data in FILES.items():
            (first.mountpoint / "kept" / kind).write_bytes(data)
        (first.mountpoint / "beside").write_bytes(content("random", 100_000, 2))
        succeed(first.tool("drivefs", "sync", first.mountpoint))
        second.mount()
        soon((second.mountpoint / "beside").exists)
        succeed(second.tool("drivefs", "keep", "--wait", second.mountpoint / "kept"))
        second.umount()
        hub.stop()
        second.mount()
        for kind, data in FILES.items():
            assert second.has(f"kept/{kind}", data)
        with pytest.raises(OSError, match="down") as raised:
            (second.mountpoint / "beside").read_bytes()
        assert raised.value.errno == errno.ENETDOWN
        second.write_synced("here", b"written without the hub")
        said = second.tool("drivefs", "status", second.mountpoint).stdout
        assert "offline" in said
        assert "not published, the oldest of" in said
        second.kill()
        second.mount()
        assert second.has("here", b"written without the hub")
        hub.start()
        soon(partial(first.has, "here", b"written without the hub"), 60)
        soon(partial(second.has, "beside", content("random", 100_000, 2)), 60)
