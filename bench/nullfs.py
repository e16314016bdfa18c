"""Mount a drive that keeps everything in dictionaries: what the kernel, pyfuse3, the handlers and
the loop cost by themselves, and what mount tests mount.

    python -m bench.nullfs MOUNTPOINT [--stock] [--read-delay SECONDS] [--socket PATH]

`--stock` waits for requests with pyfuse3's own coroutine instead of the polling one. Prints `ready` when the
mount answers. Compare with `fsbench.py MOUNTPOINT/x --only metadata`.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, cast

import pyfuse3
import trio

from cache.drive import Drive
from cache.messages import Call, Service, by_name
from gateway.control import ControlServer
from mountfs.session import Session
from mountfs.session_options import SessionOptions
from tests.mount.memory_drive import MemoryDrive
from tools.mount_control import commands_of


@dataclass(frozen=True, slots=True)
class Attribute:
    """An extended attribute."""

    name: str


@dataclass(frozen=True, slots=True)
class Times:
    """How often."""

    times: int


ASKED: Final = Call("asked", Attribute, Times)
"""How often the kernel asked for the attribute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--read-delay", type=float, default=0.0)
    parser.add_argument("--socket", type=Path)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if chosen.stock:
        # An unknown version is what makes the loop fall back.
        pyfuse3.__version__ = "stock"
    drive = MemoryDrive()
    drive.read_delay = chosen.read_delay
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.socket or Path(folder) / "control" / "socket"
        trio.run(serve, drive, chosen.mountpoint, path)


async def serve(memory: MemoryDrive, mountpoint: Path, path: Path) -> None:
    """Until it is unmounted."""
    drive = cast(Drive, memory)
    options = SessionOptions(source="nullfs", allow_other=os.geteuid() == 0, access_lists=False)
    session = Session(drive, mountpoint, options)
    commands = commands_of(drive, session, folders={})

    async def asked(attribute: Attribute) -> Times:
        return Times(memory.asked[attribute.name])

    calls = by_name([Service(ASKED, asked)])
    control = ControlServer(path, replace(commands, calls=calls))
    await session.serve(control, partial(print, "ready", flush=True))


if __name__ == "__main__":
    main()
