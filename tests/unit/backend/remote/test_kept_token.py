"""The token that a machine keeps: another one now and then, and always one that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing

from backend.errors import AwayError, NotFoundError, ReadOnlyError, TransientError
from backend.remote import HubAccount, HubClient, HubLogin, KeptToken, Logins
from backend.remote.hub_account import AccountSummary
from backend.remote.kept_token import PERIOD
from backend.system import Environment
from tests.hub_server import RunningHub, hub_for_test
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Process:
    """A process of the machine: what it read when it began, and its connection."""

    def __init__(self, kept: KeptToken) -> None:
        login = kept.login
        self.kept = kept
        self.client = HubClient(login.url, login.token, reread=kept.read)
        self.account = HubAccount(self.client)

    async def device(self) -> int:
        return (await self.account.summary()).device


class Machine:
    """A machine that is logged in."""

    def __init__(self, logins: Logins, login: HubLogin) -> None:
        logins.save(login)
        self.logins = logins
        self.url = login.url
        self._processes: list[Process] = []

    def process(self) -> Process:
        """One that begins now."""
        self._processes.append(Process(KeptToken(self.logins, self.logins.load(self.url))))
        return self._processes[-1]

    async def close(self) -> None:
        for process in self._processes:
            await process.client.close()


@pytest.fixture
async def machine(running: RunningHub, tmp_path: Path) -> AsyncIterator[Machine]:
    _, token = running.new_drive()
    number = running.call(running.hub.directory.device(token)).number
    machine = Machine(
        Logins(tmp_path / "hubs"), HubLogin(running.url, "me@example.org", token, bytes(32), number)
    )
    yield machine
    await machine.close()


async def test_all_processes_go_on_with_the_token_that_one_of_them_has_replaced(
    machine: Machine, tmp_path: Path
) -> None:
    one, other = machine.process(), machine.process()
    new = await one.kept.replace(one.account)
    assert new == machine.logins.load(machine.url)
    assert new.token != one.kept.login.token
    for process in (one, other, machine.process()):
        assert await process.device() == new.device
        assert not process.client.is_refused
    alone = Process(replace(one.kept, logins=Logins(tmp_path)))
    with pytest.raises(ReadOnlyError):
        await alone.device()
    assert alone.client.is_refused
    await alone.client.close()


class UnwritableLogins(Logins):
    """A disk that is full."""

    def save(self, login: HubLogin) -> None:
        raise OSError("no space")


async def test_a_token_that_cannot_be_kept_does_not_count(machine: Machine, tmp_path: Path) -> None:
    one = machine.process()
    full = replace(one.kept, logins=UnwritableLogins(tmp_path / "hubs"))
    with pytest.raises(OSError, match="no space"):
        await full.replace(one.account)
    for process in (one, machine.process()):
        assert await process.device() == one.kept.login.device


async def test_a_machine_that_dies_before_the_first_use_goes_on_with_what_it_kept(machine: Machine) -> None:
    one = machine.process()
    token = await one.account.rotate(one.kept.login.device)
    assert await one.device() == one.kept.login.device
    machine.logins.save(replace(one.kept.login, token=token))
    assert await machine.process().device() == one.kept.login.device
    assert await one.device() == one.kept.login.device


async def test_a_second_process_that_dies_while_it_replaces_it_leaves_what_is_kept(
    machine: Machine, tmp_path: Path
) -> None:
    """Regression: the second asked with the token that it had read, and the hub gave up the kept one."""
    first, second = machine.process(), machine.process()
    token = await first.account.rotate(first.kept.login.device)
    machine.logins.save(replace(first.kept.login, token=token))
    full = replace(second.kept, logins=UnwritableLogins(tmp_path / "hubs"))
    with pytest.raises(OSError, match="no space"):
        await full.replace(second.account)
    for process in (machine.process(), second):
        assert await process.device() == first.kept.login.device


async def test_who_logs_in_anew_while_it_is_replaced_keeps_that_login(machine: Machine) -> None:
    one = machine.process()
    anew = replace(one.kept.login, device=one.kept.login.device + 1, token=bytes(32))

    class Account(HubAccount):
        async def rotate(self, number: int) -> bytes:
            machine.logins.save(anew)
            return await super().rotate(number)

    for account in (Account(one.client), one.account):
        with pytest.raises(NotFoundError, match="logged in anew"):
            await one.kept.replace(account)
        assert machine.logins.load(machine.url) == anew
    assert await one.device() == one.kept.login.device


async def test_two_processes_do_not_replace_it_at_once(machine: Machine) -> None:
    """The token of the first would be void."""
    one, other = machine.process(), machine.process()
    with machine.logins.alone(machine.url) as is_alone:
        assert is_alone
        with pytest.raises(TransientError, match="another process"):
            await other.kept.replace(other.account)
    await one.kept.replace(one.account)
    await other.kept.replace(other.account)
    for process in (one, other):
        assert await process.device() == one.kept.login.device


async def test_another_login_is_not_taken_for_a_token(machine: Machine) -> None:
    one = machine.process()
    machine.logins.save(replace(one.kept.login, device=one.kept.login.device + 1, token=bytes(32)))
    assert one.kept.read() == b""
    machine.logins.remove(machine.url)
    assert one.kept.read() == b""
    assert await one.device() == one.kept.login.device


async def test_it_is_replaced_when_the_hub_says_so(running: RunningHub, machine: Machine) -> None:
    one = machine.process()
    with psycopg.connect(running.conninfo) as connection:
        moved = "UPDATE device SET renewed = now() - interval '31 days' WHERE id = %s"
        connection.execute(moved, (one.kept.login.device,))
    assert (await one.account.summary()).token_is_due
    environment = Environment(random_bytes=bytes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.kept.run, one.account, environment)
        await trio.to_thread.run_sync(wait_until, lambda: one.kept.read() != one.kept.login.token)
        assert not (await machine.process().account.summary()).token_is_due
        nursery.cancel_scope.cancel()


class AwayAccount(HubAccount):
    """Of a hub that does not answer the first questions."""

    def __init__(self, client: HubClient, failures: int) -> None:
        super().__init__(client)
        self._failures = failures
        self.asked: list[float] = []

    async def summary(self) -> AccountSummary:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        if len(self.asked) <= self._failures:
            raise AwayError("away")
        return AccountSummary("me@example.org", 0, False, 1, False, 0, 0, 0, 0)


async def test_a_hub_that_was_away_for_a_while_is_asked_again_soon(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    """Regression: it was asked a day later, and a token may be due since long."""
    one = machine.process()
    account = AwayAccount(one.client, 14)
    with trio.move_on_after(10 * PERIOD):
        await one.kept.run(account)
    pauses = [after - before for before, after in pairwise(account.asked)]
    failed, answered = pauses[:14], pauses[14:]
    assert failed[0] < 120
    assert sum(failed[:6]) < 2 * 3600
    assert all(after >= before for before, after in pairwise(failed[:10]))
    assert max(failed) <= PERIOD
    assert {round(pause) for pause in answered} == {PERIOD}
