"""Old commits lie in packs: they are read as before, no step loses one, and other bytes are no answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import wire
from backend.commits import decode_commit, encode_commit
from backend.errors import ConflictError, CorruptError, DriveError
from backend.hub import Housekeeping, PackTable
from backend.hub.log_segments import KEPT, LEAST, NOTED, STORED, LogSegments
from backend.hub.packing import DriveNumber
from backend.system import THIS_MACHINE, Environment, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head
from tests import plain_http
from tests.contents import KINDS, content
from tests.hub_care import check, database_of, drive_with_blocks
from tests.hub_server import RunningHub, hub_for_test

DUE = KEPT + LEAST


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Log:
    """A new drive's log: what was appended, and what the hub says."""

    def __init__(self, running: RunningHub, count: int, size: int = 300) -> None:
        self.running = running
        uuid, token = running.new_drive()
        self._url = f"{running.url}/v1/drives/{uuid.hex()}/log"
        self._headers = {"Authorization": f"Bearer {token.hex()}"}
        self.drive = running.call(self._number(uuid, token))
        self.commits: list[bytes] = []
        for at in range(count):
            self.append(content(KINDS[at % len(KINDS)], size, at))

    async def _number(self, uuid: bytes, token: bytes) -> DriveNumber:
        directory = self.running.hub.directory
        return (await directory.drives(await directory.device(token), [uuid]))[uuid]

    def append(self, payload: bytes) -> None:
        number, previous = len(self.commits) + 1, plain_hash(self.commits[-1]) if self.commits else NO_COMMIT
        encoded = encode_commit(Commit(number, previous, 1, 0, number, (), (), payload))
        self.running.call(
            self.running.hub.commits.append(self.drive.number, encoded, Head(number - 1, previous))
        )
        self.commits.append(encoded)

    def answer(self, after: int = 0, limit: int = 256) -> httpx.Response:
        return plain_http.get(self._url, params={"after": after, "limit": limit}, headers=self._headers)

    def read(self, after: int = 0, limit: int = 256) -> list[bytes]:
        return list(wire.decode_commits(self.answer(after, limit).raise_for_status().content))

    def all(self) -> list[bytes]:
        found: list[bytes] = []
        while page := self.read(len(found)):
            found += page
        return found

    def usage(self) -> int:
        return self.running.call(self.running.hub.quotas.of_drive(self.drive.number)).used

    def in_database(self) -> list[int]:
        return [number for (number,) in self.sql("SELECT number FROM commit WHERE encoded IS NOT NULL AND")]

    def sql(self, start: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.running.conninfo) as connection:
            found = connection.execute(f"{start} drive = %s".encode(), [*values, self.drive.number])
            return found.fetchall() if found.description else []

    def segments(self, environment: Environment = THIS_MACHINE) -> LogSegments:
        hub = self.running.hub
        return LogSegments(hub.commits, hub.blocks, environment=environment)

    def move(self, environment: Environment = THIS_MACHINE) -> int:
        return self.running.call(self.segments(environment).move(self.drive))


def test_old_commits_leave_the_database_and_are_read_as_before(running: RunningHub) -> None:
    log = Log(running, DUE + 5)
    used = log.usage()
    assert log.move() == LEAST + 5
    assert log.move() == 0
    assert sorted(log.in_database()) == [*range(LEAST + 6, DUE + 6)]
    assert log.all() == log.commits
    assert log.usage() == used
    assert check(running, data=True) == []


def test_commits_are_appended_and_moved_in_turns(running: RunningHub) -> None:
    log = Log(running, 0, 40)
    for at in range(DUE * 3):
        log.append(b"%d" % at)
        if at % DUE == DUE - 1:
            assert log.move() > 0
    assert len(log.sql("SELECT id FROM pack WHERE")) == 3
    assert log.all() == log.commits


@settings(max_examples=30, deadline=None)
@given(after=st.integers(0, DUE + 25), limit=st.integers(1, 300))
def test_any_part_of_a_log_is_read_across_its_segments(cut: Log, after: int, limit: int) -> None:
    assert cut.read(after, limit) == cut.commits[after : after + min(limit, 256)]


@pytest.fixture(scope="module")
def cut(running: RunningHub) -> Log:
    """A log of two segments, and commits in the database."""
    log = Log(running, DUE)
    log.move()
    for at in range(LEAST):
        log.append(content("log", 100, at))
    assert log.move() == LEAST
    return log


def test_a_log_of_few_commits_stays(running: RunningHub) -> None:
    assert Log(running, DUE - 1).move() == 0


def test_one_that_is_larger_than_a_block_stays_among_those_that_go(running: RunningHub) -> None:
    log = Log(running, 3)
    log.append(os.urandom(5 << 20))
    for at in range(DUE):
        log.append(b"%d" % at)
    assert log.move() == LEAST + 4
    assert log.in_database()[0] == 4
    assert log.all() == log.commits


def test_what_is_together_more_than_a_pack_goes_in_several(running: RunningHub) -> None:
    log = Log(running, 0)
    for at in range(DUE):
        log.append(os.urandom(1 << 20) if at < 12 else b"%d" % at)
    moved = running.call(log.segments().round())
    assert moved >= 7
    assert log.all() == log.commits


STEPS = {STORED: True, NOTED: False}
"""Failpoints, and whether the commits are in the database still."""


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_ends_at_any_step_loses_nothing(running: RunningHub, step: str) -> None:
    log, environment = Log(running, DUE), Environment()
    environment.failpoints.arm(step, "eio")
    with pytest.raises(OSError, match=step):
        log.move(environment)
    assert (len(log.in_database()) == DUE) == STEPS[step]
    assert log.all() == log.commits
    assert (log.move() > 0) == STEPS[step]
    assert log.all() == log.commits


@pytest.mark.logs_warnings
def test_without_enough_nodes_the_log_stays_where_it_is(running: RunningHub) -> None:
    log = Log(running, DUE)
    away = [*running.nodes.values()][:3]
    try:
        for node in away:
            node.away = True
        with pytest.raises(DriveError):
            log.move()
    finally:
        for node in away:
            node.away = False
    assert len(log.in_database()) == DUE
    assert log.all() == log.commits
    assert log.move() == LEAST


def test_two_processes_do_not_move_the_same(running: RunningHub) -> None:
    """The other one does it while this one's pack is on its way."""
    log, environment = Log(running, DUE), Environment()

    def meanwhile() -> None:
        with psycopg.connect(running.conninfo) as connection:
            connection.execute("UPDATE drive SET segmented = 1 WHERE id = %s", (log.drive.number,))

    environment.failpoints.arm(STORED, meanwhile)
    with pytest.raises(ConflictError):
        log.move(environment)
    assert len(log.in_database()) == DUE
    assert log.all() == log.commits


def test_a_damaged_commit_of_the_database_is_not_moved(running: RunningHub) -> None:
    log = Log(running, DUE)
    log.sql("UPDATE commit SET encoded = set_byte(encoded, 90, 7) WHERE number = 5 AND")
    with pytest.raises(CorruptError, match="commit 5 "):
        log.move()
    assert len(log.in_database()) == DUE


def other_bytes(running: RunningHub, nodes: int, changed: Callable[[bytes], bytes]) -> None:
    """What so many nodes have is other from now on."""
    for node in [*running.nodes.values()][:nodes]:
        node.objects = {key: changed(data) for key, data in node.objects.items()}


@pytest.fixture
def alone() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.mark.logs_warnings
def test_nodes_with_other_bytes_are_found_out_by_the_hashes(alone: RunningHub) -> None:
    """Two may lie, of six; with more of them nothing is said but that it is to be asked for later."""
    log = Log(alone, DUE)
    log.move()
    kept = {name: dict(node.objects) for name, node in alone.nodes.items()}
    other_bytes(alone, 2, lambda data: bytes(len(data) - 200) + data[-200:])
    assert log.all() == log.commits
    other_bytes(alone, 6, lambda data: bytes(len(data) - 200) + data[-200:])
    for (pack,) in log.sql("SELECT id FROM pack WHERE"):
        alone.hub.blocks.store(log.drive).reader.forget(pack)
    answer = log.answer()
    assert (answer.status_code, answer.json()["title"]) == (503, "later")
    for name, objects in kept.items():
        alone.nodes[name].objects = objects
    assert log.all() == log.commits


@pytest.mark.logs_warnings
def test_places_that_are_those_of_other_commits_are_found_out(alone: RunningHub) -> None:
    log = Log(alone, DUE)
    log.move()
    log.sql("UPDATE commit SET position = position + 16 WHERE number = 3 AND")
    assert log.answer().status_code == 503
    assert any("not where the database says" in each for each in check(alone, data=True))
    assert log.read(3) == log.commits[3:]


def test_the_chain_holds_over_the_place_where_commits_go_from_packs_to_the_database(cut: Log) -> None:
    previous = NO_COMMIT
    for encoded in cut.all():
        assert decode_commit(encoded).previous == previous
        previous = plain_hash(encoded)


def test_housekeeping_moves_logs_and_those_of_deleted_drives_go_with_their_packs(alone: RunningHub) -> None:
    log = Log(alone, DUE)

    async def one_round() -> Housekeeping:
        async with database_of(alone) as database:
            care = Housekeeping(database, PackTable(database), alone.hub.blocks, lambda: frozenset(), 3600.0)
            await care.round()
            return care

    assert alone.call(one_round()).done.moved == LEAST
    assert log.all() == log.commits
    drive_with_blocks(alone)
    with psycopg.connect(alone.conninfo) as connection:
        connection.execute("UPDATE drive SET deleted = now() WHERE id = %s", (log.drive.number,))
    alone.call(one_round())
    with psycopg.connect(alone.conninfo) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM commit), (SELECT count(*) FROM pack)"
        ).fetchone()
    assert row == (0, 1)
    assert check(alone) == []
