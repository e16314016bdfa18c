"""Tests that run on both event loops: trio, which mounts use, and asyncio, which servers use."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import pytest

LOOPS: Final = ("trio", "asyncio")


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The async test, once on each; its fixtures must not be async. It may ask which `loop` it is on."""

    wanted = inspect.signature(test).parameters

    def run(loop: str, **arguments: Any) -> None:
        given = arguments | ({"loop": loop} if "loop" in wanted else {})
        anyio.run(partial(test, **given), backend=loop)

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    names = dict.fromkeys([*wanted, "loop"])
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    vars(run)["pytestmark"] = [*vars(test).get("pytestmark", ())]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return marked
