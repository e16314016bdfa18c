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
    first, second = ([b"%s %d" % (word, number) for number in range(RACERS)] for word in (b"one", b"two"))
    try:
        won = _winners(client, key, {data: partial(client.create, key, [data]) for data in first})
        if won != 1:
            return _told("creates of one object", won)
        tag = client.get_tagged(key)[1]
        won = _winners(client, key, {data: partial(client.replace, key, data, tag) for data in second})
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


def _winners(client: StoreClient, key: str, racers: dict[bytes, Callable[[], None]]) -> int:
    """The number of successes; `racers` by what they write. Who was told of an error (Ceph answers 500 to
    some) may have succeeded: if nobody else has, what is there now says it. `StoreError` if nothing does.
    One more, who is late, must fail then."""
    answers = dict(zip(racers, _race(list(racers.values())), strict=True))
    told = sum(answer is None for answer in answers.values())
    unsure = {data: answer for data, answer in answers.items() if type(answer) is StoreError}
    if not unsure:
        return told
    if not told:
        told = int(_found(client, key, next(iter(unsure.values()))) in unsure)
    return told + _succeeds(next(iter(racers.values())))


def _found(client: StoreClient, key: str, error: StoreError) -> bytes:
    """The object as it is; `error` if there is none."""
    try:
        return client.get(key)
    except AbsentError:
        raise error from None


def _succeeds(call: Callable[[], None]) -> bool:
    """Whether it does by itself, after the race: where racers fail, one success shows no condition."""
    try:
        patiently(call)
    except TakenError:
        return False
    return True


def _race(calls: list[Callable[[], None]]) -> list[StoreError | None]:
    """The error of each, None for a success. `StoreError` if they cannot all begin, and nobody waits for the
    rest then; or if it is one that all would meet (no right, no bucket)."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], None]) -> StoreError | None:
        barrier.wait()
        try:
            patiently(call)
        except StoreError as error:
            if isinstance(error, TakenError) or type(error) is StoreError:
                return error
            raise
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        try:
            racing = [pool.submit(run, call) for call in calls]
        except RuntimeError as error:
            barrier.abort()
            raise StoreError(f"it cannot be tried: {error}") from None
        return [each.result() for each in racing]
