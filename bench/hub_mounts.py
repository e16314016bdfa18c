"""`python -m bench.hub_mounts [OPTIONS]`: `bench.two_folders` on two mounts of one drive at a hub.

The hub runs in a process of its own (`bench.hub_process`: PostgreSQL that syncs, nodes in folders), the
mounts are two devices of one account on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from backend.hub import Database, Directory
from backend.keys import AccountKeys, HubDrive
from backend.remote import HubLogin, Logins
from bench.hub_process import MeasuredHub, measured_hub
from tools.host import mounts

_ROOT = bytes(32)
_NAME = "bench"


async def _enrolled(hub: MeasuredHub, devices: int) -> list[bytes]:
    """An account with a drive; the tokens of its devices."""
    database = Database(hub.conninfo)
    await database.open()
    directory, uuid = Directory(database), os.urandom(16)
    account = await directory.add_account("bench@example.org")
    sealed = AccountKeys(_ROOT).seal_drive(uuid, HubDrive(_NAME, os.urandom(32)))
    await directory.add_drive(account, uuid, sealed)
    tokens = [await directory.add_device(account) for _ in range(devices)]
    await database.close()
    return tokens


@contextmanager
def _mounted(hub: MeasuredHub, folder: Path, token: bytes) -> Iterator[Path]:
    """The drive on a machine that is logged in by the token."""
    url, mountpoint = f"http://127.0.0.1:{hub.port}", folder / "mnt"
    mountpoint.mkdir(parents=True)
    Logins(folder / "state" / "hubs").save(HubLogin(url, "bench@example.org", token, _ROOT, 1))
    program = [sys.executable, "-c", "from tools.mount import main; main()"]
    options = f"state_dir={folder / 'state'},cache_dir={folder / 'cache'}"
    environment = {**os.environ, "DRIVEFS_STATE_DIR": str(folder / "state")}
    subprocess.run([*program, f"{url}/{_NAME}", str(mountpoint), "-o", options], env=environment, check=True)
    try:
        yield mountpoint
    finally:
        unmount = [sys.executable, "-c", "from tools.umount import main; main()", str(mountpoint)]
        if subprocess.run([*unmount, "--timeout", "60"], env=environment, check=False).returncode:
            mounts.unmount(str(mountpoint), lazy=True)


def main() -> None:
    """The command."""
    with tempfile.TemporaryDirectory(prefix="drivefs-hub-") as name, ExitStack() as stack:
        folder = Path(name)
        hub = stack.enter_context(measured_hub(folder / "hub"))
        tokens = anyio.run(_enrolled, hub, 2)
        shown = [
            stack.enter_context(_mounted(hub, folder / f"machine{at}", token))
            for at, token in enumerate(tokens)
        ]
        command = [sys.executable, "-m", "bench.two_folders", *sys.argv[1:], *map(str, shown)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
