"""The wrapper of each request handler: it notes the caller and turns every error into an errno, so that no
error ends the mount."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from inspect import signature
from typing import Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from mountfs.callers import Callers
from mountfs.errno_table import errno_of, is_expected, is_known

log = logging.getLogger(__name__)


class Answering(Protocol):
    """Whose requests are handled."""

    callers: Callers


S = TypeVar("S", bound=Answering)
P = ParamSpec("P")
R = TypeVar("R")


def answered(
    handler: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """`handler` with every exception turned into the `FUSEError` that pyfuse3 wants, and every caller noted:
    who asks is its last argument if it has a `ctx`."""
    says_who = "ctx" in signature(handler).parameters

    async def answering(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if says_who:
            context: Any = args[-1]
            if context.pid != self.callers.process:
                self.callers.called(context.pid)
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            _refuse(handler.__name__, args, error)

    update_wrapper(answering, handler)
    return answering


def _refuse(call: str, arguments: tuple[object, ...], error: Exception) -> NoReturn:
    if not is_expected(error):
        # The first argument is the inode (or the parent) in every request.
        known = is_known(error)
        nodes = ", ".join(getattr(error, "nodes", ()))
        log.error(
            "%s of inode %s failed: %s%s",
            call,
            arguments[0] if arguments else "-",
            error if known else repr(error),
            f" (nodes: {nodes})" if nodes else "",
            exc_info=None if known else error,
        )
    raise FUSEError(errno_of(error)) from None
