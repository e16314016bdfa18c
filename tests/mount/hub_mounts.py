"""Machines that mount one drive at a hub, by the commands that people use; and the hub, which may be away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from backend.keys import AccountKeys, HubDrive
from backend.remote import HubLogin, Logins
from tests.hub_server import RunningHub, hub, hub_for_test
from tests.mount.mounted import MountedDrive, Result, new_folder, taken_away
from tests.waiting import wait_until

NAME: Final = "photos & more"
QUOTED: Final = "photos%20%26%20more"
PATIENCE: Final = 20.0
ACCOUNT_ROOT: Final = bytes(range(32))


class MachineAtHub(MountedDrive):
    """A machine that mounts a drive at a hub, once it is logged in; `source` is the drive's address there."""

    def __init__(self, folder: Path, source: str) -> None:
        super().__init__(folder)
        self.source = source

    def try_mount(self, *options: str, where: Path | None = None) -> Result:
        given = ",".join([self.folder_options(), *options])
        return self.tool("mount.drivefs", self.source, where or self.mountpoint, "-o", given)

    def where(self) -> list[str]:
        """For the tools: without a secret, as the login has the keys."""
        return ["--cache-dir", str(self.cache), "--state-dir", str(self.state)]

    def write_synced(self, path: str, content: bytes) -> None:
        """A file with that content, for which fsync(2) has returned."""
        (self.mountpoint / path).write_bytes(content)
        with (self.mountpoint / path).open("r+b") as file:
            os.fsync(file)

    def has(self, path: str, content: bytes) -> bool:
        """Whether the mount shows that."""
        try:
            return (self.mountpoint / path).read_bytes() == content
        except FileNotFoundError:
            return False

    def lacks(self, path: str) -> bool:
        """Whether the mount shows nothing there."""
        return not (self.mountpoint / path).exists()


class HubMachine(MachineAtHub):
    """One that is logged in."""

    def __init__(self, folder: Path, url: str, token: bytes) -> None:
        super().__init__(folder, f"{url}/{QUOTED}")
        login = HubLogin(url, "me@example.org", token, ACCOUNT_ROOT, 1)
        Logins(self.state / "hubs").save(login)


class Away:
    """A hub that can be stopped, and started again where it was."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.running: RunningHub = self._stack.enter_context(hub_for_test())
        self.url = self.running.url

    def stop(self) -> None:
        """It answers nobody any more. Idempotent."""
        self._stack.close()

    def start(self) -> None:
        """As it was."""
        port = int(self.url.rpartition(":")[2])
        again = hub(self.running.conninfo, port, self.running.nodes)
        self.running = self._stack.enter_context(again)


class Account:
    """A new account at a hub with one drive, or without one, and its machines."""

    def __init__(self, running: RunningHub, *, is_empty: bool = False) -> None:
        self._running = running
        uuid, directory = os.urandom(16), running.hub.directory
        self._number = running.call(directory.add_account(f"{uuid.hex()}@example.org"))
        if not is_empty:
            sealed = AccountKeys(ACCOUNT_ROOT).seal_drive(uuid, HubDrive(NAME, os.urandom(32)))
            running.call(directory.add_drive(self._number, uuid, sealed))
        self.drive_id = uuid

    def new_token(self) -> bytes:
        """Of a new device."""
        return self._running.call(self._running.hub.directory.add_device(self._number))

    @contextmanager
    def machine(self) -> Iterator[HubMachine]:
        """One with a device of its own; everything of it is gone afterwards."""
        with taken_away(HubMachine(new_folder(), self._running.url, self.new_token())) as machine:
            yield machine

    def revoke(self, machine: HubMachine) -> None:
        """Its device may do nothing more."""
        directory = self._running.hub.directory
        (login,) = Logins(machine.state / "hubs").all()
        device = self._running.call(directory.device(login.token))
        self._running.call(directory.revoke(self._number, device.number))


def soon(condition: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait until it holds, which must be soon after it was done elsewhere; seconds that it took."""
    return wait_until(condition, seconds)
