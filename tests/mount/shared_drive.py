"""The test's side of `tests.mount.shared_mount`: a mounted drive, and the other device that writes it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.mount.mounted import new_folder
from tests.waiting import wait_until
from tools.host import mounts

ROOT: Final = Path(__file__).parent.parent.parent
SOON: Final = 0.05
"""Seconds after which what another device has published is seen here."""
PATIENCE: Final = 10.0
"""The same where others use the processors."""


@dataclass
class SharedDrive:
    """`mountpoint` is of the first device; `peer` has the second one do something."""

    mountpoint: Path
    process: subprocess.Popen[str]
    appended: float = 0.0
    """when the second device's commit was appended, as `time.monotonic`"""
    ours: float = 0.0
    """the same of the newest commit of the mount"""

    def peer(self, *edits: tuple[Any, ...]) -> list[Any]:
        """Have all edits made and published together; their results. Bytes are contents."""
        encoded = [[_encoded(each) for each in edit] for edit in edits]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(encoded) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.appended, self.ours = answer["appended"] / 1e9, answer["ours"] / 1e9
        results: list[Any] = answer["results"]
        return results

    def peer_reads(self, path: str) -> bytes:
        """The content that the second device has."""
        return base64.b64decode(self.peer(("read", path))[0])

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the mount has ended"
        return json.loads(line)

    def soon(self, condition: Callable[[], bool]) -> float:
        """Wait until it holds, which must be soon after the peer's commit; seconds that it took."""
        wait_until(condition, PATIENCE)
        return time.monotonic() - self.appended


def _encoded(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


@contextmanager
def shared_drive(interval: float = 3600.0, *, is_asking: bool = False) -> Iterator[SharedDrive]:
    """Mounted; everything of it is gone afterwards. `interval`: seconds that the mount
    waits before it publishes. `is_asking`: as of `tests.mount.shared_mount`."""
    folder = new_folder()
    mountpoint, log = folder / "mnt", folder / "log"
    mountpoint.mkdir()
    module = "tests.mount.shared_mount"
    command = [sys.executable, "-m", module, f"{folder}/devices", str(mountpoint), str(interval)]
    command += ["asking"] * is_asking
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        ) as process,
    ):
        try:
            drive = SharedDrive(mountpoint, process)
            assert drive.answer() == "ready"
            yield drive
        finally:
            _end(process, mountpoint)
            said = log.read_text()
            print(said, file=sys.stderr)
            shutil.rmtree(folder)
    assert not any(word in said for word in ("Traceback", "WARNING", "ERROR")), said


def _end(process: subprocess.Popen[str], mountpoint: Path) -> None:
    process.terminate()
    try:
        process.wait(30)
    finally:
        process.kill()
        if mounts.find(str(mountpoint)) is not None:
            mounts.unmount(str(mountpoint), lazy=True)
