"""Programs that wait for a drive whose nodes do not answer: a fatal signal ends them, another one nothing."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.contents import content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.faulty_mount import VARIABLE, Faults
from tests.mount.mounted import MountedDrive
from tests.waiting import wait_until

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = pytest.mark.mount

SIZE: Final = 1_000_000
DATA: Final = content("random", SIZE, 3)
AT: Final = 700_000
PROMPT: Final = 10.0
"""Seconds within which a killed program is gone on a busy machine, where a quarter of one is usual. Unheeded,
it waits for as long as the nodes hang."""

_BEGIN: Final = """
import mmap, os, signal, sys
path = sys.argv[1]
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, lambda *_: None)
page = mmap.mmap(-1, 1 << 20)
print(end=".", flush=True)
"""
_DIRECT: Final = "f = os.open(path, os.O_RDONLY | os.O_DIRECT); os.preadv(f, [page], 0); print(page[700_000])"
FATAL: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
READING: Final = {
    "patient": _DIRECT,
    "cached": "print(open(path, 'rb').read()[700_000])",
    "direct": _DIRECT,
    "map": "print(mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)[700_000])",
    "random map": "m = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ);"
    " m.madvise(mmap.MADV_RANDOM); print(m[700_000])",
    "page for a write": "f = os.open(path, os.O_WRONLY); os.pwrite(f, b'overwritten', 700_000)",
}
CHANGING: Final = {
    "direct write": "f = os.open(path, os.O_WRONLY | os.O_DIRECT)\nwhile True: os.pwrite(f, page, 0)",
    "folder": "os.mkdir(path + ' folder')",
    "link": "os.symlink('somewhere', path + ' link')",
    "file": "os.open(path + ' file', os.O_CREAT)",
    "attribute": "os.setxattr(path, 'user.name', b'value')",
}


class Program:
    """One that was begun, and waits."""

    def __init__(self, program: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _BEGIN + program, path], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.read(1) == b"."
        wait_until(self._waits)

    def _waits(self) -> bool:
        """Whether it waits in a call; where the kernel does not say in which, whether it waits at all."""
        where = Path(f"/proc/{self.process.pid}/wchan").read_text()
        return where.startswith(("request_wait", "folio_wait", "0")) and self.state in "SD"

    @property
    def state(self) -> str:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def kill(self, number: signal.Signals) -> None:
        """It is gone soon, by this signal."""
        self.process.send_signal(number)
        assert self.process.wait(PROMPT) == -number

    def output(self) -> bytes:
        """Nothing while it waits."""
        assert self.process.stdout is not None
        return (
            os.read(self.process.stdout.fileno(), 100)
            if select.select([self.process.stdout], [], [], 0)[0]
            else b""
        )

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@contextmanager
def waiting(folder: Path, faults: Faults, programs: dict[str, str]) -> Iterator[dict[str, Program]]:
    """They are begun one after the other, and at the end nothing hangs any more."""
    begun: dict[str, Program] = {}
    try:
        for name, program in programs.items():
            begun[name] = Program(program, folder / name / "file")
        yield begun
    finally:
        faults.clear()
        for each in begun.values():
            each.close()


@pytest.fixture
def faults(drive: MountedDrive) -> Faults:
    """Of the nodes of `drive`, which has a file for each program, and nothing of them in memory."""
    faults = Faults(drive.folder / "faults.json")
    drive.mount()
    for name in (*READING, *CHANGING):
        (drive.mountpoint / name).mkdir()  # its own: who makes a name holds its folder
        (drive.mountpoint / name / "file").write_bytes(DATA)
    drive.umount()
    drive.wipe_cache()
    drive.programs["mount.drivefs"] = "tests.mount.patient_mount"
    drive.environment[VARIABLE] = str(faults.path)
    drive.mount()
    return faults


def test_whoever_waits_for_nodes_that_hang_can_be_killed(drive: MountedDrive, faults: Faults) -> None:
    """By any signal that ends it. One that it handles ends no call. What was killed has changed nothing."""
    faults.set(*range(6), hang=True, calls="read")
    with waiting(drive.mountpoint, faults, READING) as programs:
        patient = programs["patient"]
        patient.process.send_signal(signal.SIGUSR1)
        for each, number in zip(programs.values(), itertools.cycle(FATAL)):
            if each is not patient:
                each.kill(number)
        assert patient.output() == b""
        faults.clear()
        assert patient.process.wait(60) == 0
        assert patient.output() == b"%d\n" % DATA[AT]
    for name in READING:
        assert (drive.mountpoint / name / "file").read_bytes() == DATA
    faults.set(*range(6), hang=True, calls="write")
    with waiting(drive.mountpoint, faults, CHANGING) as programs:
        for each in programs.values():
            each.kill(signal.SIGTERM)
    drive.sync()
    for name in CHANGING:
        assert os.listdir(drive.mountpoint / name) == ["file"]
    assert os.listxattr(drive.mountpoint / "attribute" / "file") == []
    assert "ERROR" not in drive.log()
