"""`make run-hub`: a hub, its database, one drive on two mounts; begun again, also where a part has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.servers import free_ports
from tools.control_client import ControlClient

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="PostgreSQL is not installed"
    ),
]
SCRIPT = Path(__file__).parents[2] / "docs" / "hub" / "demo.sh"


def _read(shown: BinaryIO) -> bytes:
    """Nothing: the process has ended."""
    try:
        shown.seek(0)
        return shown.read()
    except ProcessLookupError:
        return b""


class Demo:
    """The demo in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / ".venv").symlink_to(sys.prefix)
        (port,) = free_ports(1)
        self._folder = folder
        self.environment = {**os.environ, "HUB_ADDRESS": f"127.0.0.1:{port}"}
        self.a, self.b = folder / "demo-hub" / "a", folder / "demo-hub" / "b"

    def kill_hub(self) -> None:
        process = int((self._folder / "demo-hub" / "pid").read_text())
        with open(f"/proc/{process}/cmdline", "rb") as shown:
            os.kill(process, signal.SIGKILL)
            while _read(shown):
                time.sleep(0.01)

    def run(self, action: str) -> None:
        log = self._folder / "said"
        with open(log, "wb") as said:  # no pipe: the hub keeps it
            done = subprocess.run(
                [SCRIPT, action],
                cwd=self._folder,
                env=self.environment,
                stdout=said,
                stderr=said,
                check=False,
            )
        assert done.returncode == 0, log.read_text()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    found = Demo(tmp_path)
    yield found
    found.run("clean")


def appears(path: Path, text: str) -> None:
    end = time.monotonic() + 60
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < end, f"{path} is not there"
        time.sleep(0.05)


def test_two_devices_have_one_drive_and_find_it_again(demo: Demo) -> None:
    demo.run("start")
    (demo.a / "from a").write_text("hello")
    appears(demo.b / "from a", "hello")
    demo.run("start")
    demo.run("stop")
    assert not list(demo.a.iterdir())
    demo.run("stop")
    demo.run("start")
    (demo.b / "from b").write_text("again")
    appears(demo.a / "from b", "again")
    assert (demo.a / "from a").read_text() == "hello"


def test_it_goes_on_where_a_part_of_it_has_died(demo: Demo) -> None:
    """And at the address of the first time, which nobody names again."""
    demo.run("start")
    del demo.environment["HUB_ADDRESS"]
    demo.run("start")
    demo.kill_hub()
    (demo.a / "alone").write_text("in the journal")
    os.kill(ControlClient.of_mount(str(demo.b)).process_id(), signal.SIGKILL)
    demo.run("stop")
    assert not list(demo.a.iterdir())
    demo.run("start")
    appears(demo.b / "alone", "in the journal")
