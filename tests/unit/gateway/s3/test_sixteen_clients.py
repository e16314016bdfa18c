"""Sixteen clients over real sockets, and the drive's calls between them: all see what one was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cache.drive import Drive
from cache.errors import ExistsError
from cache.namespace import ROOT_INODE
from tests.contents import KINDS, content
from tests.drives import make_file
from tests.unit.gateway.s3.doors import body, status_of
from tests.unit.gateway.s3.served import Served

CLIENTS, ROUNDS = 16, 4


@pytest.fixture(scope="module")
def clients(served: Served) -> list[Any]:
    return [served.client() for _ in range(CLIENTS)]


@pytest.fixture
def at_once() -> Iterator[Callable[[Callable[[int], Any]], list[Any]]]:
    """Calls a function with each number of a client, in a thread for each."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield lambda call: list(pool.map(call, range(CLIENTS)))


def test_a_counter_loses_nothing(clients: list[Any], bucket: str, at_once: Any) -> None:
    clients[0].put_object(Bucket=bucket, Key="counter", Body=b"0")

    def count(number: int) -> list[int]:
        s3 = clients[number]
        mine: list[int] = []
        while len(mine) < ROUNDS:
            got = s3.get_object(Bucket=bucket, Key="counter")
            value = int(body(got)) + 1
            named = {"Bucket": bucket, "Key": "counter", "Body": b"%d" % value, "IfMatch": got["ETag"]}
            if status_of(s3.put_object, **named) == 200:
                mine.append(value)
        return mine

    values = sorted(value for mine in at_once(count) for value in mine)
    assert values == list(range(1, CLIENTS * ROUNDS + 1))
    assert body(clients[0].get_object(Bucket=bucket, Key="counter")) == b"%d" % values[-1]


def test_what_was_answered_is_there_for_all(
    served: Served, clients: list[Any], bucket: str, at_once: Any
) -> None:
    def go(number: int) -> None:
        mine, other = clients[number], clients[(number + 1) % CLIENTS]
        for turn in range(ROUNDS):
            key, data = f"k/{number}/{turn}", content(KINDS[turn], 9000 + number, number)
            for state in (data, data[::-1]):
                put = mine.put_object(Bucket=bucket, Key=key, Body=state)
                got = other.get_object(Bucket=bucket, Key=key)
                assert (body(got), got["ETag"]) == (state, put["ETag"])
                assert served.run(read, served.drive, bucket, key) == state
            assert key in keys_below(other, bucket, f"k/{number}/")
            mine.delete_object(Bucket=bucket, Key=key)
            assert status_of(other.head_object, Bucket=bucket, Key=key) == 404
            assert key not in keys_below(other, bucket, f"k/{number}/")

    at_once(go)
    assert keys_below(clients[0], bucket, "") == []


def keys_below(s3: Any, bucket: str, prefix: str) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def inode_of(drive: Drive, *names: str) -> int:
    inode = ROOT_INODE
    for name in names:
        inode = drive.lookup(inode, name.encode()).inode
    return inode


async def read(drive: Drive, bucket: str, key: str) -> bytes:
    """By the drive's own calls, as the mount makes them."""
    inode = inode_of(drive, bucket, *key.split("/"))
    return bytes(await drive.read(inode, 0, drive.size(inode)))


def test_what_the_drive_was_given_is_there_for_all(
    served: Served, clients: list[Any], bucket: str, at_once: Any
) -> None:
    folder = inode_of(served.drive, bucket)

    def go(number: int) -> None:
        s3, name = clients[number], f"n{number}"
        for turn in range(ROUNDS):
            data = content(KINDS[turn], 9000 + number, number)
            inode = served.run(make_file, served.drive, name.encode(), data, folder).inode
            first = s3.get_object(Bucket=bucket, Key=name)
            assert body(first) == data
            served.run(served.drive.write, inode, 0, b"new")
            second = s3.get_object(Bucket=bucket, Key=name)
            assert body(second) == b"new" + data[3:]
            assert second["ETag"] != first["ETag"]
            named = {"Bucket": bucket, "Key": name, "Body": b"", "IfMatch": first["ETag"]}
            assert status_of(s3.put_object, **named) == 412
            assert name in keys_below(s3, bucket, "")
            served.run(served.drive.unlink, folder, name.encode())
            assert status_of(s3.get_object, Bucket=bucket, Key=name) == 404
            assert name not in keys_below(s3, bucket, "")

    at_once(go)


def test_the_door_or_the_drive_makes_a_name_never_both(
    served: Served, clients: list[Any], bucket: str, at_once: Any
) -> None:
    folder = inode_of(served.drive, bucket)
    for turn in range(ROUNDS):
        name = f"n{turn}"

        def make(number: int, name: str = name) -> int:
            if number % 4 == 0:
                return 200 if served.run(made_by_the_drive, served.drive, folder, name.encode()) else 412
            named = {"Bucket": bucket, "Key": name, "Body": b"%d" % number, "IfNoneMatch": "*"}
            return status_of(clients[number].put_object, **named)

        answers = at_once(make)
        assert sorted(answers) == [200] + [412] * (CLIENTS - 1)
        winner = answers.index(200)
        kept = body(clients[0].get_object(Bucket=bucket, Key=name))
        assert kept == (b"" if winner % 4 == 0 else b"%d" % winner)


async def made_by_the_drive(drive: Drive, folder: int, name: bytes) -> bool:
    try:
        await drive.make_node(folder, name, 0o100644, 0, 0, 0)
    except ExistsError:
        return False
    return True
