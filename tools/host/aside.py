"""Something done in a process of its own, that ends with it.

A process that goes into the background later (`tools.host.daemon`) takes no threads along. Libraries that
start some and keep them, as those that speak to object stores do, would wait in the child for threads that
are not there. So whatever uses them before is done aside."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

from tools.errors import BUG, ReportedError

Result = TypeVar("Result")


def aside(call: Callable[[], Result]) -> Result:
    """What `call` returns: it can be pickled. An error is shown where it happened, and `ReportedError`
    here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(call, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise ReportedError("what was asked in a process of its own ended without an answer", BUG)
    return cast(Result, pickle.loads(said))


def _answer(call: Callable[[], object], writer: int) -> NoReturn:
    try:
        data = pickle.dumps(call())
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
