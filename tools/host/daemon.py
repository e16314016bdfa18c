"""Going into the background: the parent returns when the child says that it is ready.

1. fork(2) copies only the calling thread: of those that were started before `start`, all must have ended, or
   wait for a disk that never answers and hold nothing that the child needs (`backend.system.ask`).
2. The parent learns of success or of the failure's one line through a pipe; a child that dies
   without a word closes it, which is a failure too. So the parent never waits for nothing.
3. The child is a session of its own without a terminal (two forks, setsid), so that closing the
   terminal does not end it; it runs in `/`, so that it keeps no other file system busy.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import NoReturn

from tools.errors import BUG, ExitCodes, ReportedError, describe, exit_code

logger = logging.getLogger(__name__)

Ready = Callable[[], None]
"""Called by the child once, when it does what the parent was asked for."""


def start(serve: Callable[[Ready], None], codes: ExitCodes) -> None:
    """Run `serve(ready)` in a background process; return when it calls `ready`. If it raises before,
    `ReportedError` with its one line and its exit code."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become_daemon(serve, writer, codes)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    _judge(said)


def _judge(said: bytes) -> None:
    if not said:
        raise ReportedError("the background process ended without a word; see its log", BUG)
    report = json.loads(said)
    if report["code"]:
        raise ReportedError(report["message"], report["code"])


class _Parent:
    """The way back to the waiting parent: one report, the first."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe

    def ready(self) -> None:
        """Let go of the terminal (until now libraries could complain there), then report success."""
        _leave_the_terminal()
        self.tell(0, "")

    def tell(self, code: int, message: str) -> None:
        """Report `code` (0: ready) and let the parent go on. Does nothing the second time."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            with os.fdopen(pipe, "wb") as file:
                file.write(json.dumps({"code": code, "message": message}).encode())


def _become_daemon(serve: Callable[[Ready], None], pipe: int, codes: ExitCodes) -> NoReturn:
    parent = _Parent(pipe)
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        serve(parent.ready)
    except BaseException as error:
        code = exit_code(error, codes)
        logger.critical("the mount ended: %s", describe(error), exc_info=error if code == BUG else None)
        parent.tell(code, describe(error) if code != BUG else f"internal error, see the log: {error!r}")
        os._exit(1)
    os._exit(0)


def _leave_the_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
