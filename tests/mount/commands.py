"""The commands of drivefs in processes that are forked from one that has them imported.

To import them takes longer than most of what they are asked, and the tests call them many hundred times. A
forked command is a process of its own all the same, with its arguments, environment, umask, output and exit
code. What Python decides when it starts (the encoding of names) and what the loader does are as in the
process that forks: a command whose environment changes that has to be started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Final

from tools import drivefs, fsck, mkfs, umount

COMMANDS: Final = {
    "mkfs.drivefs": mkfs.main,
    "umount.drivefs": umount.main,
    "fsck.drivefs": fsck.main,
    "drivefs": drivefs.main,
}
Result = subprocess.CompletedProcess[str]

for _module in drivefs.MODULES:
    import_module(f"tools.commands.{_module}")


def run(name: str, arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> Result:
    """Run the command to its end; no terminal to ask at. `subprocess.TimeoutExpired`. However this ends, the
    process has ended too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _memory() as output, _memory() as errors:
        places = tuple(f"/proc/{os.getpid()}/fd/{file}" for file in (output, errors))
        command = (name, [*arguments], dict(environment), _umask(), places)
        process = context.Process(target=_run, args=command, daemon=True)
        process.start()
        try:
            process.join(timeout)
            code = process.exitcode
        finally:
            process.kill()  # nothing is sent to one that has ended
            process.join()
            process.close()
        if code is None:
            raise subprocess.TimeoutExpired([name, *arguments], timeout)
        return subprocess.CompletedProcess([name, *arguments], code, _text(output), _text(errors))


def _run(
    name: str,
    arguments: list[str],
    environment: dict[str, str],
    umask: int,
    places: tuple[str, str],
) -> None:
    """In the forked process; ends it."""
    os.environ.clear()
    os.environ.update(environment)
    os.umask(umask)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate((os.devnull, *places)):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = [name, *arguments]
    COMMANDS[name]()


@contextmanager
def _memory() -> Iterator[int]:
    file = os.memfd_create("output")
    try:
        yield file
    finally:
        os.close(file)


def _text(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="surrogateescape")


def _umask() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
