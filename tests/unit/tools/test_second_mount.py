"""The mount that a second one shows: found among others, some of which do not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backend.system import patience
from tools import second_mount
from tools.host import mounts
from tools.host.mounts import Mount

STOPPED, DEAD, ALIVE = (Mount(f"/mnt/{name}", "fuse.drivefs", "/drive") for name in ("s", "d", "a"))


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end: until then a stopped process keeps its callers waiting."""
    event = threading.Event()
    yield event
    event.set()


def test_a_mount_of_a_stopped_process_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    """Nobody can say whether it is dead: statfs(2) waits until the process goes on."""

    def is_dead(mountpoint: str) -> bool:
        return (mountpoint == STOPPED.mountpoint and released.wait()) or mountpoint == DEAD.mountpoint

    monkeypatch.setattr(patience, "SECONDS", 0.2)
    monkeypatch.setattr(mounts, "drives", lambda: [STOPPED, DEAD, ALIVE])
    monkeypatch.setattr(mounts, "is_dead", is_dead)
    monkeypatch.setattr(second_mount, "shows_the_present", lambda mount: True)
    assert second_mount.place_of("/drive") == ALIVE
    assert second_mount.place_of("/other") is None
