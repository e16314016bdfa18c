"""Something done in a process of its own, that ends with it.

A process that goes into the background later (`tools.host.daemon`) takes no threads along. Libraries that
start some and keep them, as those that speak to object stores do, would wait in the child for threads that
are not there. So whatever uses them before is done aside.

Nobody waits for the end of that process: a thread of it that hangs in the kernel keeps it for as long as the
disk does not answer. It is a grandchild, whose end init waits for."""

from __future__ import annotations

import os
import pickle
import select
import traceback
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar, cast

from tools.deadline import Deadline
from tools.errors import BUG, ReportedError, ToolError

SECONDS: Final = 60.0
_HEAD: Final = 8
_PART: Final = 1 << 16

Result = TypeVar("Result")


def aside(call: Callable[[], Result], seconds: float = SECONDS) -> Result:
    """The answer of `call`: it can be pickled. An error is shown where it happened, and `ReportedError`
    here. `ToolError` if no answer comes within `seconds`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer_detached(call, writer)
    os.close(writer)
    try:
        os.waitpid(child, 0)
        said = _received(reader, Deadline(seconds))
    finally:
        os.close(reader)
    return cast(Result, unpacked(said))


def packed(answer: object) -> bytes:
    """As it goes through the pipe: its length, 8 bytes, and itself, pickled."""
    data = pickle.dumps(answer)
    return len(data).to_bytes(_HEAD, "big") + data


def unpacked(said: bytes) -> object:
    """The answer; `ReportedError` if that is not the whole of one."""
    if len(said) < _HEAD or len(said) != _HEAD + int.from_bytes(said[:_HEAD], "big"):
        raise ReportedError("what was asked in a process of its own ended without a whole answer", BUG)
    return pickle.loads(said[_HEAD:])


def _received(pipe: int, deadline: Deadline) -> bytes:
    """All that is written to it, until nobody can write any more."""
    poll, said = select.poll(), bytearray()
    poll.register(pipe, select.POLLIN)
    while poll.poll(1000 * (deadline.left() or 0)):
        part = os.read(pipe, _PART)
        if not part:
            return bytes(said)
        said += part
    raise ToolError(f"what was asked in a process of its own was not answered within {deadline}")


def _answer_detached(call: Callable[[], object], writer: int) -> NoReturn:
    try:
        if os.fork():
            os._exit(0)
        data = packed(call())
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        os._exit(1)  # nobody waits for it any more
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
