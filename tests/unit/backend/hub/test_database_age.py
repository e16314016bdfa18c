"""A database that is older than what the hub was served from last is noticed, and no other one is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError, RollbackError, UnavailableError
from backend.hub import Database, DatabaseAge
from backend.hub.database_mark import KEY, SIZE, DatabaseMark, decode, encode, mark_secret
from tests.hub_care import database_of
from tests.hub_server import RunningHub, hub_for_test

HUB, KEY_OF_PACKS = b"h" * 16, b"k" * 32
SECRET = mark_secret(KEY_OF_PACKS)
NUMBERS = st.integers(0, (1 << 63) - 1)


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def do(running: RunningHub, *steps: str) -> None:
    """The methods of that name, of a process that begins now."""

    async def run() -> None:
        async with database_of(running) as database:
            age = DatabaseAge(database, running.nodes, HUB, KEY_OF_PACKS)
            for step in steps:
                await getattr(age, step)()

    running.call(run())


def put_back(running: RunningHub, number: int) -> None:
    """The database is as it was when it had that mark."""
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE database_mark SET number = %s", (number,))


def mark_of(running: RunningHub, name: str) -> DatabaseMark:
    return decode(running.nodes[name].objects[KEY], HUB, SECRET)


def test_a_new_hub_and_one_that_goes_on_are_served(running: RunningHub) -> None:
    do(running, "require_newest", "mark", "require_newest", "mark")
    assert {mark_of(running, name).number for name in running.nodes} == {2}
    do(running, "require_newest")


def test_a_database_that_was_put_back_is_served_once_it_was_accepted(running: RunningHub) -> None:
    do(running, *["mark"] * 3)
    put_back(running, 1)
    for _ in range(2):
        with pytest.raises(RollbackError, match="drivefs-hub check --after-restore"):
            do(running, "require_newest")
    with pytest.raises(RollbackError):
        do(running, "run")
    do(running, "accept", "require_newest")
    assert mark_of(running, "node0").number == 4


def test_a_copy_of_the_database_is_another_one(running: RunningHub) -> None:
    """As pg_restore makes it, of a dump that lacks nothing."""
    do(running, "mark")
    running.call(running.database.close())
    name = str(psycopg.conninfo.conninfo_to_dict(running.conninfo)["dbname"])
    with psycopg.connect(running.conninfo, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE copy_of_{name} TEMPLATE {name}".encode())
    copied = Database(psycopg.conninfo.make_conninfo(running.conninfo, dbname=f"copy_of_{name}"), size=1)

    async def ask() -> None:
        await copied.open()
        try:
            await DatabaseAge(copied, running.nodes, HUB, KEY_OF_PACKS).require_newest()
        finally:
            await copied.close()

    with pytest.raises(RollbackError):
        running.call(ask())


@pytest.mark.logs_warnings
def test_a_minority_of_nodes_hides_nothing_and_invents_nothing(running: RunningHub) -> None:
    do(running, "mark")
    old = running.nodes["node0"].objects[KEY]
    do(running, "mark")
    newest = mark_of(running, "node1")
    put_back(running, 1)
    for name in ("node0", "node1"):
        running.nodes[name].away = True
    with pytest.raises(RollbackError):
        do(running, "require_newest")
    for name in ("node2", "node3"):
        running.nodes[name].objects[KEY] = old
    with pytest.raises(RollbackError):
        do(running, "require_newest")
    put_back(running, 2)
    running.nodes["node2"].objects[KEY] = encode(replace(newest, number=99), HUB, b"x" * 32)
    do(running, "require_newest")
    running.nodes["node2"].away = True
    with pytest.raises(UnavailableError, match=r"node0: .*node1: .*node2: "):
        do(running, "mark")
    running.nodes["node3"].away = True
    with pytest.raises(UnavailableError, match=r"3 of the nodes, and 2 answer \(node0: .*node3: "):
        do(running, "begin")


def test_a_mark_that_too_few_nodes_took_is_not_newer_than_the_database(running: RunningHub) -> None:
    """As of a process that was killed while it told the nodes."""
    do(running, "mark")
    for name in ("node0", "node1", "node2"):
        running.nodes[name].away = True
    with pytest.raises(UnavailableError):
        do(running, "mark")
    for name in ("node0", "node1", "node2"):
        running.nodes[name].away = False
    assert {mark_of(running, name).number for name in running.nodes} == {1, 2}
    do(running, "require_newest")


@pytest.mark.logs_warnings
def test_a_hub_whose_nodes_take_nothing_is_served(running: RunningHub) -> None:
    """Devices read there, and delete, which is what gives room again."""
    do(running, "mark")
    for node in running.nodes.values():
        node.full = True
    do(running, "begin")
    put_back(running, 0)
    with pytest.raises(RollbackError):
        do(running, "begin")


@pytest.mark.logs_warnings
def test_half_of_the_nodes_know_what_a_majority_has_taken(running: RunningHub) -> None:
    """Of two nodes, each of which has all blocks, one may be away when the hub is started again."""
    do(running, *["mark"] * 2)
    for name in sorted(running.nodes)[: len(running.nodes) // 2]:
        running.nodes[name].away = True
    do(running, "begin")
    put_back(running, 1)
    with pytest.raises(RollbackError):
        do(running, "begin")


def test_a_database_whose_clock_was_ahead_is_accepted_and_marked(running: RunningHub) -> None:
    do(running, *["mark"] * 3)
    put_back(running, 1)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE database_mark SET changed = now() + interval '1 day'")
    do(running, "accept", "require_newest")
    assert mark_of(running, "node0").number == 4


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(0, SIZE - 1), st.integers(1, 255))
def test_no_byte_of_a_mark_can_be_changed(
    number: int, cluster: int, database: int, at: int, change: int
) -> None:
    mark = DatabaseMark(number, cluster, database)
    data = encode(mark, HUB, SECRET)
    assert decode(data, HUB, SECRET) == mark
    wrong = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
    for each in (wrong, data[:at], data + b"x"):
        with pytest.raises((CorruptError, FormatError)):
            decode(each, HUB, SECRET)
    with pytest.raises(CorruptError):
        decode(data, b"i" * 16, SECRET)
