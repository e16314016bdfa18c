"""The end of a command: one clear line on stderr and the exit code of its convention.

`mount(8)`/`umount(8)` codes (util-linux): 0 success, 1 usage or permission, 2 system error,
4 bug, 8 interrupted, 16 mtab, 32 failure. `mkfs(8)`: 0 or 1. `drivefs`: 0, 1 failure, 2 usage,
4 bug. A traceback is shown for a bug only: for what no person can cause.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from backend import file_limit
from backend.errors import DriveError, UsageError
from cache.errors import FileSystemError
from tools.terminal import complain, open_standard_descriptors, printable

BUG: Final = 4
SHORT: Final = 3
"""`drivefs sync`: all is stored, with less redundancy than promised."""
PARTLY: Final = 64
"""mount(8)'s "some succeeded": all is stored and unmounted, with less redundancy than promised."""
READER_GONE: Final = 128 + signal.SIGPIPE
"""As a shell tells it of a program that SIGPIPE has ended."""


@dataclass(frozen=True, slots=True)
class ExitCodes:
    """The codes of one family of commands."""

    usage: int
    system: int
    interrupted: int
    failure: int


MOUNT_CODES: Final = ExitCodes(usage=1, system=2, interrupted=8, failure=32)
MKFS_CODES: Final = ExitCodes(usage=1, system=1, interrupted=1, failure=1)
COMMAND_CODES: Final = ExitCodes(usage=2, system=1, interrupted=130, failure=1)


class ToolError(DriveError):
    """A failure of the command itself (no FUSE device, busy mountpoint, no answer)."""


class MissingSystemError(ToolError):
    """The system lacks what the command needs (`mount(8)`: a system error)."""


class ReportedError(ToolError):
    """A failure with its own exit code that another process has described in one line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """argparse, with usage errors as exceptions, so that each command keeps its exit codes."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def describe(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return printable(f"{place}{file_limit.reason(error)}")
    return printable(str(error).strip()) or type(error).__name__


def exit_code(error: BaseException, codes: ExitCodes) -> int:
    """The exit code that `error` means in the convention `codes`; `BUG` if nobody foresaw it."""
    match error:
        case ReportedError():
            return error.code
        case UsageError():
            return codes.usage
        case MissingSystemError():
            return codes.system
        case PermissionError():
            return codes.usage if codes is MOUNT_CODES else codes.failure
        case DriveError() | FileSystemError() | OSError():
            return codes.failure
        case KeyboardInterrupt():
            return codes.interrupted
        case _:
            return BUG


def run(program: str, codes: ExitCodes, main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Call `main` with the command line and exit as the convention says. Never returns."""
    open_standard_descriptors()
    sys.exit(call(program, codes, main, sys.argv[1:]))


def call(
    program: str, codes: ExitCodes, main: Callable[[Sequence[str]], int], arguments: Sequence[str]
) -> int:
    """As `run`, but returns the exit code."""
    try:
        code = main(arguments)
        if sys.stdout is not None:  # it is where it was closed before we began
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return READER_GONE
        code = exit_code(error, codes)
        complain(f"{program}: {_last_words(error, code)}", *_traceback(error, code))
        return code


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more (`| head`): there is nobody to tell, and what is left of it
    goes nowhere, or Python would try once more at the end."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _last_words(error: BaseException, code: int) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "internal error, please report it:" if _is_bug(error, code) else describe(error)


def _is_bug(error: BaseException, code: int) -> bool:
    return code == BUG and not isinstance(error, ReportedError)


def _traceback(error: BaseException, code: int) -> list[str]:
    return "".join(traceback.format_exception(error)).rstrip().split("\n") if _is_bug(error, code) else []
