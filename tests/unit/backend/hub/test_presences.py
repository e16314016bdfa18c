"""Presences at a hub: several processes show each other's; they end; of limits and rights."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterator, Sequence

import anyio
import httpx
import pytest

from backend import wire
from backend.errors import UsageError
from backend.hub import Presences, PresenceTable
from backend.upstream import MAX_PRESENCES, SealedPresence
from tests import plain_http
from tests.hub_server import RunningHub, hub_for_test


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Two:
    """A drive, and the tokens and numbers of two devices of its account."""

    def __init__(self, running: RunningHub) -> None:
        self.running = running
        self.uuid, token = running.new_drive()
        directory = running.hub.directory
        self.account = running.call(directory.device(token)).account
        self.tokens = token, running.another_token(token)
        found = [running.call(directory.device(each)) for each in self.tokens]
        self.devices = [device.number for device in found]
        self.drive = running.call(directory.drives(found[0], [self.uuid]))[self.uuid].number

    def ask(self, number: int, method: str, content: bytes = b"") -> httpx.Response:
        """By the device."""
        url = f"{self.running.url}/v1/drives/{self.uuid.hex()}/presence"
        headers = {"Authorization": f"Bearer {self.tokens[number].hex()}"}
        return plain_http.request(method, url, headers=headers, content=content)

    def wait(self, number: int, mark: int, seconds: float) -> httpx.Response:
        """By the device, for presences that have not that mark."""
        said = {"drives": {self.uuid.hex(): 0}, "presence": {self.uuid.hex(): mark}, "timeout": seconds}
        headers = {"Authorization": f"Bearer {self.tokens[number].hex()}"}
        return plain_http.post(f"{self.running.url}/v1/wait", headers=headers, json=said, timeout=60)


@pytest.fixture
def two(running: RunningHub) -> Two:
    return Two(running)


def presences(count: int) -> list[SealedPresence]:
    return [SealedPresence(os.urandom(32), os.urandom(wire.PRESENCE_SIZE)) for _ in range(count)]


def test_others_are_shown_what_a_device_shows_and_nothing_of_their_own(two: Two) -> None:
    shown = sorted(presences(3))
    assert two.ask(0, "PUT", wire.encode_presences(shown)).status_code == 204
    assert wire.decode_presences(two.ask(1, "GET").content, 9) == shown
    assert two.ask(0, "GET").content == b""
    assert two.ask(0, "PUT", wire.encode_presences(shown[:1])).status_code == 204
    assert wire.decode_presences(two.ask(1, "GET").content, 9) == shown[:1]
    two.running.call(two.running.hub.directory.revoke(two.account, two.devices[0]))
    assert two.ask(1, "GET").content == b""


def test_more_than_the_limits_or_anything_else_is_refused(two: Two) -> None:
    assert two.ask(0, "PUT", wire.encode_presences(presences(MAX_PRESENCES + 1))).status_code == 413
    assert two.ask(0, "PUT", b"x" * wire.PRESENCE_BYTES + b"y").status_code == 422
    assert two.ask(0, "PUT", wire.encode_presences(presences(MAX_PRESENCES))).status_code == 204
    table = PresenceTable(two.running.database)

    async def fill() -> None:
        for device in range(1 << 40, (1 << 40) + wire.MAX_IDS):
            await table.show(two.drive, device, presences(MAX_PRESENCES))

    with pytest.raises(UsageError, match="at most 1000"):
        two.running.call(fill())


def test_those_that_have_ended_take_no_place_of_others(two: Two) -> None:
    table = PresenceTable(two.running.database)
    old = "UPDATE presence SET expires = now() WHERE drive = %s"

    async def fill() -> list[SealedPresence]:
        for device in range(1 << 40, (1 << 40) + wire.MAX_IDS // MAX_PRESENCES):
            await table.show(two.drive, device, presences(MAX_PRESENCES))
        await two.running.database.execute(old, (two.drive,))
        await table.show(two.drive, two.devices[0], presences(MAX_PRESENCES))
        return await table.of_others(two.drive, two.devices[1])

    assert len(two.running.call(fill())) == MAX_PRESENCES


def test_sets_of_a_device_at_once_do_not_wait_for_each_other_in_a_circle(two: Two) -> None:
    """Its token may be stolen: each circle would cost a connection, and a second of others' time."""
    table, known = PresenceTable(two.running.database), presences(40)

    async def show(first: int) -> None:
        for number in range(first, first + 10):
            chosen = [known[(number * 7 + each * 3) % len(known)] for each in range(20)]
            await table.show(two.drive, two.devices[0], chosen)
            await table.forget_ended()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for first in range(8):
                group.start_soon(show, first)

    two.running.call(run())


def test_a_poll_ends_when_a_set_changes_and_not_when_it_is_renewed(two: Two) -> None:
    shown = presences(2)
    assert two.wait(1, 0, 0).status_code == 204
    two.ask(0, "PUT", wire.encode_presences(shown))
    told = two.wait(1, 0, 30).json()
    mark = told["presence"][two.uuid.hex()]
    assert told["drives"] == {}
    again = [SealedPresence(each.key, os.urandom(wire.PRESENCE_SIZE)) for each in shown]
    two.ask(0, "PUT", wire.encode_presences(again))
    assert two.wait(1, mark, 0.2).status_code == 204
    two.ask(0, "PUT")
    assert two.wait(1, mark, 30).json()["presence"] == {two.uuid.hex(): 0}


def test_two_devices_that_do_the_same_do_not_look_like_none(two: Two) -> None:
    for number in (0, 1):
        two.ask(number, "PUT", wire.encode_presences([SealedPresence(bytes(32), bytes(wire.PRESENCE_SIZE))]))
    assert two.wait(1, 0, 30).json()["presence"][two.uuid.hex()]


class NotedTable(PresenceTable):
    """`looked`: is set when somebody was told of marks."""

    looked: anyio.Event

    async def marks(self, drives: Sequence[int]) -> dict[int, int]:
        found = await super().marks(drives)
        self.looked.set()
        return found


def test_what_another_process_took_wakes_who_waits_and_it_ends_by_itself(two: Two) -> None:
    table = NotedTable(two.running.database)
    here, elsewhere = Presences(table), PresenceTable(two.running.database)
    old = "UPDATE presence SET expires = now() WHERE drive = %s"

    async def told(known: dict[int, int], change: Awaitable[object]) -> dict[int, int]:
        """The marks that end a wait which had looked before the change."""
        found: dict[int, int] = {}

        async def wait() -> None:
            found.update(await here.wait(known))

        table.looked = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await table.looked.wait()
            await change
        return found

    async def run() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(here.run)
                found = await told({two.drive: 0}, elsewhere.show(two.drive, two.devices[0], presences(1)))
                assert found.keys() == {two.drive}
                ended = two.running.database.execute(old, (two.drive,))
                assert await told(found, ended) == {two.drive: 0}
                group.cancel_scope.cancel()
        assert await table.of_others(two.drive, two.devices[1]) == []
        assert await table.forget_ended() >= 1

    two.running.call(run())


@pytest.mark.parametrize(
    "said", [[], {"x": 1}, {"00" * 16: 1}, {"UUID": -1}, {"UUID": "1"}, {"UUID": None}, "UUID"], ids=str
)
def test_a_poll_for_what_is_none_is_refused(two: Two, said: object) -> None:
    uuid = two.uuid.hex()
    named = (
        {uuid if key == "UUID" else key: mark for key, mark in said.items()}
        if isinstance(said, dict)
        else said
    )
    headers = {"Authorization": f"Bearer {two.tokens[0].hex()}"}
    body = {"drives": {uuid: 0}, "presence": named, "timeout": 0}
    assert plain_http.post(f"{two.running.url}/v1/wait", headers=headers, json=body).status_code == 400
