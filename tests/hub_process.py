"""A hub for tests that is a process of its own, as an operator runs it: `drivefs-hub init` and `serve`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from backend.hub import Database, Directory
from tests import plain_http
from tests.postgres import new_database
from tests.servers import NoServerError, NotReadyError, free_ports, running, wait_until

_MAIN = "from tools.hub_server.main import main; main()"


def command(*arguments: str) -> list[str]:
    """`drivefs-hub` with these arguments."""
    return [sys.executable, "-c", _MAIN, *arguments]


class HubProcess:
    """A hub in `folder`, on a database and a port of its own. It runs from `start` on."""

    def __init__(self, folder: Path, *more: str, conninfo: str = "") -> None:
        self._folder = folder
        self.conninfo = conninfo or new_database()
        port, metrics = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        self.log = folder / "log"
        self.hub = folder / "hub"
        listen = ["--listen", f"127.0.0.1:{port}", "--url", self.url, "--database", self.conninfo]
        shown = ["--metrics", f"127.0.0.1:{metrics}"]
        assert self.run("init", str(self.hub), *listen, *shown, *more)[0] == 0

    def run(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Exit code and output of another command, with `more` in its environment."""
        environment = os.environ | more
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, check=False, env=environment
        )
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process, which serves while the block runs, unless something ends it."""
        with running(command("serve", str(self.hub)), self.log, {}) as process:
            wait_until(lambda: _ask(self.url), self.log)
            yield process

    @contextmanager
    def serving_beside(self) -> Iterator[str]:
        """Another process of the hub serves while the block runs: where."""
        address = f"127.0.0.1:{free_ports(1)[0]}"
        serve = ["serve", str(self.hub), "--listen", address, "--metrics", ""]
        with running(command(*serve), self.log.with_suffix(".beside"), {}):
            wait_until(lambda: _ask(f"http://{address}"), self.log.with_suffix(".beside"))
            yield f"http://{address}"

    def new_drive(self) -> tuple[bytes, bytes]:
        """A new account with a device and a drive: the drive's id, the device's token. Blocks; in no event
        loop's thread."""

        async def make() -> tuple[bytes, bytes]:
            uuid, database = os.urandom(16), Database(self.conninfo)
            await database.open()
            try:
                directory = Directory(database)
                account = await directory.add_account(f"{uuid.hex()}@example.org")
                await directory.add_drive(account, uuid)
                return uuid, await directory.add_device(account)
            finally:
                await database.close()

        return asyncio.run(make())


def _ask(url: str) -> None:
    try:
        if plain_http.get(f"{url}/ready").status_code != 200:
            raise NotReadyError("it is not ready")
    except httpx.TransportError as error:
        raise NotReadyError(str(error)) from error


def hub_process(folder: Path, *more: str, conninfo: str = "") -> HubProcess:
    """A hub made with these options; the test is skipped where there is no PostgreSQL."""
    try:
        return HubProcess(folder, *more, conninfo=conninfo)
    except NoServerError as error:
        pytest.skip(str(error))
