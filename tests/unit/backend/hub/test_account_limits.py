"""How much an account may ask, how many devices and drives it has: the numbers of docs/format/hub_api.md."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backend.errors import ThrottledError
from backend.hub.attempts import Attempts
from tests import plain_http
from tests.hub_account import People, Person
from tests.hub_server import PEPPER, RunningHub, hub_for_test
from tests.unit.backend.hub.test_app import refused


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def one(running: RunningHub) -> Iterator[Person]:
    people = People(running)
    yield people.person()
    people.close()


def test_ten_logins_of_an_address_may_fail_and_one_more_each_minute(running: RunningHub) -> None:
    attempts = Attempts(running.database, PEPPER)

    def charge() -> None:
        running.call(attempts.charge("ten@example.org"))

    for _ in range(10):
        charge()
    with pytest.raises(ThrottledError):
        charge()
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE login_attempt SET changed = changed - interval '1 minute'")
    charge()
    with pytest.raises(ThrottledError):
        charge()


def fill_up(running: RunningHub, one: Person, table: str, column: str, size: int) -> None:
    """The account has 255 of them, each with other bytes of that size in the column."""
    with psycopg.connect(running.conninfo) as connection:
        owner = connection.execute("SELECT id FROM account WHERE email = %s", (one.email,)).fetchone()
        assert owner is not None
        counted = connection.execute(f"SELECT count(*) FROM {table} WHERE account = %s".encode(), owner)
        row = counted.fetchone()
        assert row is not None
        rows = [(owner[0], os.urandom(size)) for _ in range(255 - row[0])]
        insert = f"INSERT INTO {table} (account, {column}) VALUES (%s, %s)"
        connection.cursor().executemany(insert.encode(), rows)


def test_an_account_has_at_most_256_drives_whoever_asks_at_once(running: RunningHub, one: Person) -> None:
    fill_up(running, one, "drive", "uuid", 16)

    def create(_number: int) -> int:
        said = {"uuid": os.urandom(16).hex(), "sealed": "aa"}
        return plain_http.post(
            f"{running.url}/v1/drives", json=said, headers=one.client.headers, timeout=30
        ).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [201, 422, 422, 422]
    drives = one.client.get("/v1/drives").json()["drives"]
    assert len(drives) == 256
    one.client.delete(f"/v1/drives/{drives[0]['uuid']}")
    assert create(0) == 201


def test_an_account_has_at_most_256_devices_that_are_not_revoked(running: RunningHub, one: Person) -> None:
    fill_up(running, one, "device", "token", 32)
    assert one.log_in().status_code == 200
    refused(one.log_in(), 422, "refused")
    first = one.client.get("/v1/devices").json()["devices"][0]["number"]
    assert one.client.delete(f"/v1/devices/{first}").status_code == 204
    assert one.log_in().status_code == 200


def test_a_revoked_device_is_listed_for_90_days(running: RunningHub, one: Person) -> None:
    first = one.client.get("/v1/account").json()["device"]
    one.log_in()
    one.client.delete(f"/v1/devices/{first}")

    def is_listed(days: int) -> bool:
        with psycopg.connect(running.conninfo) as connection:
            moved = "UPDATE device SET revoked = now() - make_interval(days => %s) WHERE id = %s"
            connection.execute(moved, (days, first))
        running.call(running.hub.table.remove_departed(time.time()))
        return first in [each["number"] for each in one.client.get("/v1/devices").json()["devices"]]

    assert [is_listed(89), is_listed(91)] == [True, False]


def test_an_expired_device_is_listed_for_90_days_and_no_hindrance(running: RunningHub, one: Person) -> None:
    first = one.client.get("/v1/account").json()["device"]
    fill_up(running, one, "device", "token", 32)

    def not_seen_for(days: int) -> None:
        with psycopg.connect(running.conninfo) as connection:
            moved = (
                "UPDATE device SET seen = now() - make_interval(days => %(days)s),"
                " heard = now() - make_interval(days => %(days)s) WHERE id = %(first)s"
            )
            connection.execute(moved, {"days": days, "first": first})
        running.call(running.hub.table.remove_departed(time.time()))

    assert one.log_in().status_code == 200
    refused(one.log_in(), 422, "refused")
    for days, is_listed in ((179, True), (181, False)):
        not_seen_for(days)
        listed = [each["number"] for each in one.client.get("/v1/devices").json()["devices"]]
        assert (first in listed) is is_listed
        if is_listed:
            assert one.log_in().status_code == 200
