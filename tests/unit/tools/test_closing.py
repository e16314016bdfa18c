"""What was opened is closed in time, and not before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from tools.closing import Closable, closed_at_end, closed_on_failure

Around = Callable[[Closable], AbstractAsyncContextManager[None]]


class Opened:
    """Something whose closing takes a turn of the loop."""

    is_closed = False

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True


async def test_who_has_opened_it_goes_on_with_it() -> None:
    opened = Opened()
    async with closed_on_failure(opened):
        pass
    assert not opened.is_closed
    async with closed_at_end(opened):
        assert not opened.is_closed
    assert opened.is_closed


@pytest.mark.parametrize("around", [closed_on_failure, closed_at_end])
async def test_an_error_closes_and_is_raised(around: Around) -> None:
    opened = Opened()
    with pytest.raises(KeyError):
        async with around(opened):
            raise KeyError
    assert opened.is_closed


@pytest.mark.parametrize("around", [closed_on_failure, closed_at_end])
async def test_a_cancelled_opening_closes_to_the_end(around: Around) -> None:
    opened = Opened()
    with trio.CancelScope() as scope:
        async with around(opened):
            scope.cancel()
            await trio.sleep_forever()
    assert opened.is_closed
