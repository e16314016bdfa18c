"""`mount.drivefs` whose journal lies on a disk that takes as long for an fdatasync as a file says.

Nothing is really synced. Beside the file, named `.waited`, stands who waited: a letter for each fdatasync,
`l` for the event loop and `t` for a thread.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

from backend.system import Durable, Environment
from tools import mount

VARIABLE: Final = "TEST_DISK_SECONDS"


class SlowDisk(Durable):
    """See the module."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._waited = os.open(waited_file(file), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sync_data(self, descriptor: int) -> None:
        on_loop = threading.current_thread() is threading.main_thread()
        os.write(self._waited, b"l" if on_loop else b"t")
        if seconds := float(self._file.read_text()):
            time.sleep(seconds)


def waited_file(file: Path) -> Path:
    """Where it stands who waited."""
    return file.with_suffix(".waited")


def main() -> None:
    """The command."""
    mount.main(Environment(SlowDisk(Path(os.environ[VARIABLE]))))
