"""One account cannot take all of a hub's process: its requests that are under way have limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from starlette.types import Message, Receive, Scope, Send

from backend import wire
from backend.commits import encode_commit
from backend.errors import ThrottledError
from backend.hub.under_way import UnderWay, UntilAnswered
from backend.upstream import NO_COMMIT, Commit, Head
from tests import plain_http
from tests.contents import content
from tests.hub_server import RunningHub, hub_for_test
from tests.waiting import wait_until


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def test_an_account_has_so_many_at_once_and_so_large() -> None:
    under_way = UnderWay(requests=2, memory=100)
    with under_way.one(1) as first, under_way.one(1) as second:
        with pytest.raises(ThrottledError), under_way.one(1):
            pass
        with under_way.one(2) as other:
            other.take(100)
        first.take(60)
        second.take(40)
        with pytest.raises(ThrottledError):
            second.take(1)
    with under_way.one(1) as later:
        later.take(100)
    assert not under_way.taken


def test_polls_of_one_account_leave_connections_to_others(running: RunningHub) -> None:
    running.hub.rates.under_way.requests = 3
    uuid, token = running.new_drive()
    _, other = running.new_drive()

    async def end_polls() -> None:
        running.hub.heads.time.end(0)

    def ask(token: bytes, seconds: float) -> int:
        said = {"drives": {uuid.hex(): 0}, "timeout": seconds}
        header = {"Authorization": f"Bearer {token.hex()}"}
        return plain_http.post(f"{running.url}/v1/wait", json=said, headers=header, timeout=60).status_code

    with ThreadPoolExecutor(3) as pool:
        polls = [pool.submit(ask, token, 100.0) for _ in range(3)]
        try:
            wait_until(lambda: running.hub.heads.polls == 3)
            assert ask(token, 0.0) == 429
            assert ask(other, 0.0) == 404  # the drive is not its own: but it was answered
        finally:
            running.call(end_polls())
        assert [poll.result(60) for poll in polls] == [204] * 3
    assert ask(token, 0.0) == 204


@pytest.mark.parametrize("is_chunked", [False, True])
def test_bodies_and_answers_of_one_account_leave_memory_to_others(
    running: RunningHub, is_chunked: bool
) -> None:
    uuid, token = running.new_drive()
    url, header = f"{running.url}/v1/drives/{uuid.hex()}", {"Authorization": f"Bearer {token.hex()}"}
    block, data = f"{url}/blocks/{'ab' * 32}", os.urandom(1 << 20)

    def put() -> int:
        content = iter([data[:1000], data[1000:]]) if is_chunked else data
        return plain_http.put(block, content=content, headers=header).status_code

    running.hub.rates.under_way.memory = 1 << 19
    assert put() == 429
    running.hub.rates.under_way.memory = 1 << 20
    assert put() == 204
    assert plain_http.get(block, headers=header).content == data
    running.hub.rates.under_way.memory = 1 << 19
    assert plain_http.get(block, headers=header).status_code == 429
    assert plain_http.get(f"{url}/head", headers=header).status_code == 200


def test_appends_to_one_drive_leave_the_database_to_others(running: RunningHub) -> None:
    """They wait for each other, and not with a connection of the pool each."""
    (uuid, token), (other, shown) = running.new_drive(), running.new_drive()
    head = Head(0, NO_COMMIT)

    def append(number: int) -> int:
        header = {"Authorization": f"Bearer {token.hex()}", "Expected-Head": wire.encode_head(head)}
        body = encode_commit(Commit(1, head.hash, number, 0, 1, (), (), b"payload"))
        url = f"{running.url}/v1/drives/{uuid.hex()}/log"
        return plain_http.post(url, content=body, headers=header, timeout=60).status_code

    async def under_way() -> int:
        return sum(taken.requests for taken in running.hub.rates.under_way.taken.values())

    def all_are_there() -> bool:
        with psycopg.connect(running.conninfo) as connection:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return running.call(under_way()) == 20 and bool(connection.execute(waiting).fetchall())

    with psycopg.connect(running.conninfo) as holding, ThreadPoolExecutor(20) as pool:
        holding.execute("SELECT 1 FROM drive WHERE uuid = %s FOR UPDATE", (uuid,))
        appends = [pool.submit(append, number) for number in range(1, 21)]
        wait_until(all_are_there)
        url = f"{running.url}/v1/drives/{other.hex()}/head"
        answer = plain_http.get(url, headers={"Authorization": f"Bearer {shown.hex()}"}, timeout=60)
        holding.commit()
        assert answer.status_code == 200
        assert sorted(each.result(60) for each in appends) == [201] + [409] * 19


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 1 << 20])
async def test_a_large_answer_is_given_in_parts(size: int) -> None:
    body, found = os.urandom(size), list[Message]()

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    async def receive() -> Message:
        raise AssertionError

    async def keep(message: Message) -> None:
        found.append(message)

    await UntilAnswered(application)({"type": "http"}, receive, keep)
    start, *parts = found
    assert start["status"] == 200
    assert b"".join(part["body"] for part in parts) == body
    assert all(len(part["body"]) <= 256 << 10 for part in parts)
    assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]


@pytest.mark.parametrize("size", [1, 200 << 10, 300 << 10, (768 << 10) + 5, 4 << 20])
async def test_an_answer_that_was_given_is_not_held_by_its_last_parts(size: int) -> None:
    """Regression: a client that reads slowly held a whole block in memory, which counted for no account."""
    body, expected, found = bytearray(content("random", size)), content("random", size), list[Message]()

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": memoryview(body)})

    async def receive() -> Message:
        raise AssertionError

    async def connection(message: Message) -> None:
        """Holds a part until that after it is begun to be sent, as one whose client is slow."""
        found.append(message)
        del found[:-2]

    await UntilAnswered(application)({"type": "http"}, receive, connection)
    tail = b"".join(part["body"] for part in found)
    assert tail
    assert expected.endswith(tail)
    body.append(1)  # `BufferError` while somebody holds a part of it
