"""Real servers for tests: programs on free ports of this machine, which end with who started them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

_START_SECONDS: Final = 60.0
_STARTS: Final = 3
"""Another process may take a port that was free."""
_FROM_NPM: Final = Path(sys.prefix, "servers", "node_modules", ".bin")
"""Where `make test` installs servers of the npm registry."""


class NoServerError(Exception):
    """It cannot run here; the message says why."""


class NotReadyError(Exception):
    """It does not answer yet; the message says how."""


def program(name: str, package: str) -> str:
    """The path of a server's program. `NoServerError`."""
    places = (str(Path(sys.executable).parent), str(_FROM_NPM), None)
    found = next(filter(None, (shutil.which(name, path=place) for place in places)), None)
    if found is None:
        raise NoServerError(f"there is no {name} ({package} has none for this platform, or is not installed)")
    return found


@contextmanager
def server(
    ports: int,
    command: Callable[[Sequence[int]], list[str]],
    ready: Callable[[Sequence[int]], None],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Sequence[int]]:
    """The `ports` on which the program of `command` listens while the block runs; `ready` raises
    `NotReadyError` until it answers. `NoServerError`."""
    with ExitStack() as stack:
        for _ in range(_STARTS):
            chosen = free_ports(ports)
            process = stack.enter_context(running(command(chosen), log, environment or {}))
            trouble = _wait(partial(ready, chosen), process)
            if trouble is None:
                yield chosen
                return
        raise NoServerError(f"{log}: {trouble}: {log.read_text(errors='replace')[-500:]}")


@contextmanager
def running(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the block does."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], None], log: Path) -> None:
    """Return when `ready` raises `NotReadyError` no more. `NoServerError`."""
    trouble = _wait(ready)
    if trouble is not None:
        raise NoServerError(f"{log}: {trouble}")


def _wait(ready: Callable[[], None], process: subprocess.Popen[bytes] | None = None) -> str | None:
    """What is wrong; None when it answers."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            ready()
            return None
        except NotReadyError as error:
            if process is not None and process.poll() is not None:
                return "it ended"
            if time.monotonic() > end:
                return f"it was not ready in {_START_SECONDS:g} s: {error}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Held all at once, so that none is given twice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
