"""The commands of drivefs in processes that are forked from one that has them imported.

To import them takes longer than most of what they are asked, and the tests call them many hundred times. A
forked command is a process of its own all the same, with its arguments, environment, umask, limits, folder,
output and exit code. It has no other descriptor, so a mount that goes into the background keeps none. /proc
shows its arguments and environment as if it had been started (`show`): a mount is asked for its options by
them, and the processes of a test are found by them. What Python decides when it starts (the encoding of
names) and what the loader does are as in the process that forks: a command whose environment changes that has
to be started (`may_fork`).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Final

_LIMITS: Final = [value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_")]
Result = subprocess.CompletedProcess[str]

_PR_SET_MM: Final = 35
_MAP, _MAP_SIZE = 14, 15
_SHAPE: Final = struct.Struct("12QIi")
"""`struct prctl_mm_map` of linux/prctl.h."""
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.malloc.restype = ctypes.c_void_p
_libc.sbrk.restype = ctypes.c_void_p


def may_fork(name: str, variables: Mapping[str, str]) -> bool:
    """Whether Python and the loader make nothing of these variables, and nobody misses what is not shown."""
    is_plain = all(each.startswith(("DRIVEFS_", "TEST_")) for each in variables)
    return is_plain and (name != "mount.drivefs" or can_show())


def command_line(module: str, name: str, arguments: Sequence[str]) -> list[str]:
    """That starts `main` of the module as the command `name`."""
    program = f"import sys; sys.argv[0] = {name!r}; from {module} import main; main()"
    return [sys.executable, "-c", program, *arguments]


def run(
    module: str, name: str, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
) -> Result:
    """Run `main` of the module to its end, as the command `name`; no terminal to ask at.
    `subprocess.TimeoutExpired`. However this ends, the process has ended too, but for what it left in the
    background."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.mount.imported"])
    with _memory() as output, _memory() as errors:
        places = tuple(f"/proc/{os.getpid()}/fd/{file}" for file in (output, errors))
        command = (module, [name, *arguments], dict(environment), _surroundings(), places)
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
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    surroundings: tuple[int, str, list[tuple[int, int]]],
    places: tuple[str, str],
) -> None:
    """In the forked process; ends it."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if can_show():
        show(command_line(module, arguments[0], arguments[1:]), environment)
    os.environ.clear()
    os.environ.update(environment)
    _enter(*surroundings)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate((os.devnull, *places)):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = arguments
    import_module(module).main()


def can_show() -> bool:
    """Whether this kernel has what `show` needs (CONFIG_CHECKPOINT_RESTORE)."""
    return bool(_libc.prctl(_PR_SET_MM, _MAP_SIZE, ctypes.byref(ctypes.c_uint()), 0, 0) == 0)


def show(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """In /proc/PID/cmdline and environ of this process, until it ends (prctl(2), PR_SET_MM_MAP)."""
    arguments = _kept(words)
    variables = _kept([f"{name}={value}" for name, value in environment.items()])
    with open("/proc/self/stat") as stat:
        field = ["", "", "", *stat.read().rpartition(")")[2].split()]  # as numbered in proc(5)
    places = [int(field[number]) for number in (26, 27, 45, 46, 47)]
    places += [_libc.sbrk(0), int(field[28]), *arguments, *variables]
    laid_out = _SHAPE.pack(*places, 0, 0, -1)
    if _libc.prctl(_PR_SET_MM, _MAP, laid_out, ctypes.c_ulong(_SHAPE.size), 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _kept(words: Sequence[str]) -> tuple[int, int]:
    """Where they lie in memory for good, and where they end."""
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    place = int(_libc.malloc(ctypes.c_size_t(len(data))))
    ctypes.memmove(place, data, len(data))
    return place, place + len(data)


def _surroundings() -> tuple[int, str, list[tuple[int, int]]]:
    """What a started process has of the one that starts it: umask, folder, limits."""
    return _umask(), os.getcwd(), [resource.getrlimit(each) for each in _LIMITS]


def _enter(umask: int, folder: str, limits: list[tuple[int, int]]) -> None:
    os.umask(umask)
    os.chdir(folder)
    for which, limit in zip(_LIMITS, limits, strict=True):
        resource.setrlimit(which, limit)


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
