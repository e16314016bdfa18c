"""Whether a store keeps its word on conditional writes: of eight writers at once exactly one wins.

A sequential probe is not enough: some stores look and then write, and some ignore the condition and answer
200. A store that lets two win has two masters, so no node may be there. Blocks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier
from typing import Final

from backend.nodes.object_store.client import StoreClient
from backend.nodes.object_store.errors import AbsentError, StoreError, TakenError
from backend.nodes.object_store.spacing import patiently
from backend.system import THIS_MACHINE, Environment

FOLDER: Final = "probe/"
RACERS: Final = 8


def trouble_with_conditions(client: StoreClient, environment: Environment = THIS_MACHINE) -> str | None:
    """The reason why the store cannot be trusted with a lease, in words; None if it can. What it writes is
    below `probe/`, and is deleted; if that fails it is in nobody's way. `StoreError` if it cannot be found
    out."""
    key = f"{FOLDER}{environment.random_bytes(8).hex()}"
    try:
        won = _race([partial(client.create, key, [b"%d" % number]) for number in range(RACERS)])
        if won != 1:
            return _told("creates of one object", won)
        tag = client.get_tagged(key)[1]
        won = _race([partial(client.replace, key, b"new %d" % number, tag) for number in range(RACERS)])
        return None if won == 1 else _told("replacements of one version of an object", won)
    finally:
        with suppress(AbsentError):
            patiently(partial(client.delete, key))


def _told(what: str, won: int) -> str:
    winners = f"{won} were told that they were the first" if won else "none succeeded"
    return (
        f"of {RACERS} {what} at once {winners}: it must be exactly one, else two writers may each believe "
        "that the drive is theirs. The store ignores If-None-Match or If-Match, or does not keep them"
    )


def _race(calls: list[Callable[[], None]]) -> int:
    """The number of successes. `StoreError` if they cannot all begin: nobody waits for the rest then."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], None]) -> bool:
        barrier.wait()
        try:
            patiently(call)
        except TakenError:
            return False
        return True

    with ThreadPoolExecutor(len(calls)) as pool:
        try:
            racing = [pool.submit(run, call) for call in calls]
        except RuntimeError as error:
            barrier.abort()
            raise StoreError(f"it cannot be tried: {error}") from None
        return sum(each.result() for each in racing)
