"""`python -m bench.hub_mounts [--line MILLISECONDS,MEGABITS] [OPTIONS]`: `bench.two_folders` on two mounts of
one drive at a hub.

With `--line` the first mount reaches the hub over a line that is so long and so wide
(`bench.delaying_proxy`), and the bytes that it took, to the hub and back, are printed at the end. The hub
runs in a process of its own (`bench.hub_process`: PostgreSQL that syncs, nodes in folders), the mounts are
two devices of one account on this machine.
"""

from __future__ import annotations

import argparse
import os
import signal
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


class Line:
    """A line to a port of this machine, `text` long and wide."""

    def __init__(self, text: str, port: int) -> None:
        delay, _, megabits = text.partition(",")
        command = [sys.executable, "-m", "bench.delaying_proxy", f"127.0.0.1:{port}", delay]
        self.process = subprocess.Popen([*command, "--megabits", megabits], stdout=subprocess.PIPE, text=True)
        self.port = int(self._said())

    def passed(self) -> tuple[int, int]:
        """Bytes to the port and back, so far."""
        self.process.send_signal(signal.SIGUSR1)
        there, back = self._said().split()
        return int(there), int(back)

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def _line(text: str, port: int) -> Iterator[Line]:
    line = Line(text, port)
    with line.process:
        try:
            yield line
        finally:
            line.process.kill()


@contextmanager
def _mounted(port: int, folder: Path, token: bytes) -> Iterator[Path]:
    """The drive on a machine that is logged in by the token, and reaches the hub by that port."""
    url, mountpoint = f"http://127.0.0.1:{port}", folder / "mnt"
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
    parser = argparse.ArgumentParser(prog="python -m bench.hub_mounts", description=__doc__)
    parser.add_argument("--line", metavar="MILLISECONDS,MEGABITS")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="drivefs-hub-") as name, ExitStack() as stack:
        folder = Path(name)
        hub = stack.enter_context(measured_hub(folder / "hub"))
        tokens = anyio.run(_enrolled, hub, 2)
        line = stack.enter_context(_line(options.line, hub.port)) if options.line else None
        ports = [hub.port if line is None else line.port, hub.port]
        shown = [
            stack.enter_context(_mounted(port, folder / f"machine{at}", token))
            for at, (port, token) in enumerate(zip(ports, tokens, strict=True))
        ]
        before = None if line is None else line.passed()
        command = [sys.executable, "-m", "bench.two_folders", *more, *map(str, shown)]
        subprocess.run(command, check=True)
        if line is not None and before is not None:
            there, back = (now - then for now, then in zip(line.passed(), before, strict=True))
            print(f"bytes on the line: {there:,} to the hub, {back:,} back")


if __name__ == "__main__":
    main()
