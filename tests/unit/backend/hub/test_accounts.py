"""Accounts at the hub: signing up, logging in, devices, drives, and the room that they take."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pyotp
import pytest
import trio
import trio.testing

from backend.commits import encode_commit
from backend.errors import NotFoundError, ThrottledError, TransientError, UsageError
from backend.hub import Accounts, Operator, Quotas, RequestRates
from backend.hub.accounts import USUAL_COST, normal_email
from backend.hub.app import problem
from backend.hub.quotas import Room
from backend.keys.key_slots import DEFAULT_COST
from backend.upstream import NO_COMMIT, BlockId, Commit, Head
from backend.wire import decode_head, encode_head
from tests import plain_http
from tests.hub_account import People, Person, Secret, end
from tests.hub_server import PEPPER, RunningHub, hub_for_test
from tests.unit.backend.hub.test_app import refused
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def people(running: RunningHub) -> Iterator[People]:
    found = People(running)
    yield found
    found.close()


@pytest.fixture
def one(people: People) -> Person:
    return people.person()


def test_a_person_signs_up_and_logs_in_by_either_secret(people: People) -> None:
    one = people.person()
    for kind in ("passphrase", "recovery"):
        answer = one.log_in(kind)
        assert bytes.fromhex(answer.json()["wrapped"]) == one.secrets[kind].wrapped
        said = one.client.get("/v1/account").json()
        assert (said["email"], said["device"]) == (one.email, answer.json()["device"])
        started = one.client.post("/v1/login/start", json={"email": one.email.upper(), "kind": kind}).json()
        assert bytes.fromhex(started["salt"]) == one.secrets[kind].salt


def test_the_addresses_of_strangers_have_salts_as_well_that_stay(one: Person) -> None:
    def start(email: str, kind: str = "passphrase") -> dict[str, object]:
        answer = one.client.post("/v1/login/start", json={"email": email, "kind": kind})
        assert answer.status_code == 200
        found: dict[str, object] = answer.json()
        return found

    assert start("nobody@example.org") == start(" Nobody@Example.org")
    assert start("nobody@example.org")["salt"] != start("other@example.org")["salt"]
    assert start("nobody@example.org")["salt"] != start("nobody@example.org", "recovery")["salt"]
    assert start("nobody@example.org").keys() == start(one.email).keys()
    cost = DEFAULT_COST
    assert (cost.memory_kib, cost.iterations, cost.lanes) == USUAL_COST, "or strangers are told from others"


def test_an_address_without_account_and_a_wrong_secret_are_answered_alike(one: Person) -> None:
    wrong = one.log_in(auth_key=os.urandom(32).hex())
    unknown = one.log_in(email="nobody-at-all@example.org")
    refused(wrong, 403, "wrong_login")
    assert wrong.json() == unknown.json()


def test_an_address_has_one_account(one: Person) -> None:
    refused(Person(one.client, one.email.upper()).sign_up(), 409, "moved")
    assert one.log_in().status_code == 200


@pytest.mark.parametrize(
    "email", ["", "x", "@x", "x@", "a b@x", "a@x\n", "a\0@x", "a" * 250 + "@x.de", "\udcff@x"]
)
def test_what_is_no_address(email: str) -> None:
    if email.strip() == "a@x":
        assert normal_email(email) == "a@x"
        return
    with pytest.raises(UsageError):
        normal_email(email)


def test_failed_logins_are_counted_for_known_and_unknown_addresses(people: People) -> None:
    one = people.person()
    for email in (one.email, "stranger@example.org"):
        answers = [one.log_in(email=email, auth_key=os.urandom(32).hex()) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 3
        refused(answers[-1], 429, "throttled")
        assert int(answers[-1].headers["Retry-After"]) == 3600
    refused(one.log_in(), 429, "throttled")
    assert one.client.get("/v1/account").status_code == 200, "who is logged in is not touched"


def test_logins_that_succeed_are_not_counted(people: People) -> None:
    one = people.person()
    assert [one.log_in().status_code for _ in range(8)] == [200] * 8


def test_guesses_at_once_are_counted_too(running: RunningHub, people: People) -> None:
    one = people.person()
    statuses: list[int] = []

    def guess() -> None:
        said = {"email": one.email, "auth_key": os.urandom(32).hex()}
        statuses.append(plain_http.post(f"{running.url}/v1/login/finish", json=said).status_code)

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [403] * 5 + [429] * 11


def test_another_passphrase_asks_for_the_one_before(one: Person) -> None:
    before, new = one.secrets["passphrase"], Secret()
    change = {"proof": one.proof() | {"auth_key": os.urandom(32).hex()}, "passphrase": new.said()}
    refused(one.client.put("/v1/account/login", json=change), 403, "wrong_login")
    change["proof"] = one.proof("recovery")
    assert one.client.put("/v1/account/login", json=change).status_code == 204
    assert one.client.get("/v1/account").status_code == 200, "devices stay"
    refused(one.log_in(), 403, "wrong_login")
    one.secrets["passphrase"] = new
    assert bytes.fromhex(one.log_in().json()["wrapped"]) == new.wrapped
    assert before.salt != new.salt
    refused(one.client.put("/v1/account/login", json={"proof": one.proof()}), 400, "bad_request")


def test_a_second_factor_counts_when_it_is_confirmed_and_each_code_once(one: Person) -> None:
    begun = one.client.post("/v1/account/factor", json=one.proof()).json()
    assert begun["uri"].startswith("otpauth://totp/")
    assert one.log_in().status_code == 200
    codes, now = pyotp.TOTP(begun["secret"]), int(time.time())
    refused(one.client.put("/v1/account/factor", json={"code": "000000x"}), 403, "wrong_login")
    assert one.client.put("/v1/account/factor", json={"code": codes.at(now - 30)}).status_code == 204
    assert one.client.get("/v1/account").json()["has_factor"] is True
    for _ in range(8):
        refused(one.log_in(), 403, "code_needed")
    refused(one.log_in(code=codes.at(now - 30)), 403, "wrong_login")
    assert one.log_in(code=codes.at(now)).status_code == 200
    refused(one.log_in(code=codes.at(now)), 403, "wrong_login")
    refused(one.client.post("/v1/account/factor", json=one.proof("recovery")), 409, "moved")
    assert one.log_in("recovery").status_code == 200, "for whoever has lost the phone"
    refused(end(one.client, "/v1/account/factor", one.proof()), 403, "code_needed")
    assert end(one.client, "/v1/account/factor", one.proof("recovery")).status_code == 204
    assert one.log_in().status_code == 200


def test_a_device_is_named_listed_and_revoked(one: Person, people: People) -> None:
    first = one.client.get("/v1/account").json()["device"]
    header = {"Authorization": one.client.headers["Authorization"]}
    second = one.log_in().json()["device"]
    other = people.person()
    for call in (other.client.get, other.client.delete):
        refused(call(f"/v1/devices/{first}"), 404, "not_found")
    refused(other.client.patch(f"/v1/devices/{first}", json={"name": "00"}), 404, "not_found")
    assert one.client.patch(f"/v1/devices/{second}", json={"name": "abcd"}).status_code == 204
    rows = one.client.get("/v1/devices").json()["devices"]
    assert [(row["number"], row["name"], row["revoked"]) for row in rows] == [
        (first, "", None),
        (second, "abcd", None),
    ]
    assert one.client.get(f"/v1/devices/{second}").json() == rows[1]
    for _ in range(2):
        assert one.client.delete(f"/v1/devices/{first}").status_code == 204
    assert one.client.get("/v1/devices").json()["devices"][0]["revoked"] >= rows[0]["created"]
    refused(one.client.get("/v1/account", headers=header), 401, "unauthorised")
    refused(one.client.get(f"/v1/devices/{2**80}"), 400, "bad_request")


def test_a_poll_of_a_device_ends_when_it_is_revoked(running: RunningHub, one: Person) -> None:
    uuid = os.urandom(16).hex()
    one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "00"})
    first = one.client.get("/v1/account").json()["device"]
    header = {"Authorization": one.client.headers["Authorization"]}
    one.log_in()
    answers: list[httpx.Response] = []

    def poll() -> None:
        asked = {"drives": {uuid: 0}, "timeout": 60}
        answers.append(plain_http.post(f"{running.url}/v1/wait", json=asked, headers=header, timeout=90))

    thread = threading.Thread(target=poll)
    thread.start()
    wait_until(lambda: running.hub.heads.polls == 1)
    before = time.monotonic()
    one.client.delete(f"/v1/devices/{first}")
    thread.join()
    refused(answers[0], 401, "unauthorised")
    assert time.monotonic() - before < 10


def test_a_new_token_counts_from_its_first_use(one: Person) -> None:
    number = one.client.get("/v1/account").json()["device"]
    old = {"Authorization": one.client.headers["Authorization"]}
    lost, new = (one.client.post(f"/v1/devices/{number}/rotate").json()["token"] for _ in range(2))
    assert one.client.get("/v1/account").status_code == 200
    refused(one.client.get("/v1/account", headers={"Authorization": f"Bearer {lost}"}), 401, "unauthorised")
    one.client.headers["Authorization"] = f"Bearer {new}"
    assert one.client.get("/v1/account").json()["device"] == number
    refused(one.client.get("/v1/account", headers=old), 401, "unauthorised")
    one.log_in()
    refused(one.client.post(f"/v1/devices/{number}/rotate"), 404, "not_found")


def _shift(running: RunningHub, device: int, column: str, days: float) -> None:
    """The moment was so many days ago."""
    with psycopg.connect(running.conninfo) as connection:
        statement = f"UPDATE device SET {column} = now() - %s * interval '1 day' WHERE id = %s"
        connection.execute(statement.encode(), (days, device))


def _not_heard_for(running: RunningHub, device: int, days: float) -> None:
    """Nothing was heard of the device for so many days, by both clocks."""
    for column in ("seen", "heard"):
        _shift(running, device, column, days)


def test_a_token_expires_when_nothing_is_heard_of_its_device(running: RunningHub, one: Person) -> None:
    number = one.client.get("/v1/account").json()["device"]
    _not_heard_for(running, number, 89.9)
    assert one.client.get("/v1/account").status_code == 200
    _not_heard_for(running, number, 89.9)
    row = one.client.get(f"/v1/devices/{number}").json()
    assert row["expires"] - row["seen"] == 90 * 86400
    assert row["seen"] > time.time() - 3600
    next_one = one.client.post(f"/v1/devices/{number}/rotate").json()["token"]
    _not_heard_for(running, number, 90.1)
    for header in ({}, {"Authorization": f"Bearer {next_one}"}):
        refused(one.client.get("/v1/account", headers=header), 401, "expired")
    one.log_in()
    listed = one.client.get("/v1/devices").json()["devices"]
    assert [row["number"] == number for row in listed] == [True, False]
    assert running.call(Operator(running.database).account(one.email)).devices == 1


def test_a_device_of_a_locked_account_stays_logged_in(running: RunningHub, one: Person) -> None:
    """Regression: the token ended, and the mount was fenced, 90 days after the account was locked."""
    number = one.client.get("/v1/account").json()["device"]
    _set(running, one.email, "locked", "now")
    _not_heard_for(running, number, 80)
    refused(one.client.get("/v1/account"), 403, "read_only")
    with psycopg.connect(running.conninfo) as connection:
        later = "SELECT seen > now() - interval '1 hour' FROM device WHERE id = %s"
        assert connection.execute(later, (number,)).fetchone() == (True,)
    _set(running, one.email, "locked", None)


def test_a_token_is_due_after_30_days_until_another_one_is_used(running: RunningHub, one: Person) -> None:
    number = one.client.get("/v1/account").json()["device"]

    def is_due() -> bool:
        return one.client.get("/v1/account").json()["token_is_due"] is True

    for days, expected in ((29.9, False), (30.1, True)):
        _shift(running, number, "renewed", days)
        assert is_due() is expected
    token = one.client.post(f"/v1/devices/{number}/rotate").json()["token"]
    assert is_due()
    one.client.headers["Authorization"] = f"Bearer {token}"
    assert not is_due()
    assert not is_due()


def test_drives_are_made_sealed_anew_and_deleted(running: RunningHub, one: Person, people: People) -> None:
    uuid, other = os.urandom(16).hex(), people.person()
    assert one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "aa"}).status_code == 201
    for who in (one, other):
        refused(who.client.post("/v1/drives", json={"uuid": uuid, "sealed": "aa"}), 409, "moved")
    refused(other.client.patch(f"/v1/drives/{uuid}", json={"sealed": "bb"}), 404, "not_found")
    refused(other.client.delete(f"/v1/drives/{uuid}"), 404, "not_found")
    assert other.client.get("/v1/drives").json() == {"drives": []}
    assert one.client.patch(f"/v1/drives/{uuid}", json={"sealed": "bb"}).status_code == 204
    one.client.put(f"/v1/drives/{uuid}/blocks/{'01' * 32}", content=b"x" * 100)
    one.client.put(f"/v1/drives/{uuid}/roots/snapshot", content=b"x" * 10)
    row = {"uuid": uuid, "sealed": "bb", "bytes": 110, "head": 0, "importing": False, "departure": 0}
    row["nodes"] = ""
    assert one.client.get("/v1/drives").json() == {"drives": [row]}
    assert one.client.get(f"/v1/drives/{uuid}").json() == row
    assert one.client.delete(f"/v1/drives/{uuid}").status_code == 204
    for path in ("", "/head", f"/blocks/{'01' * 32}"):
        refused(one.client.get(f"/v1/drives/{uuid}{path}"), 404, "not_found")
    assert one.client.get("/v1/drives").json() == {"drives": []}
    account = one.client.get("/v1/account").json()
    assert (account["used"], account["kept"]) == (0, 110)
    running.call(running.hub.blocks.collect(grace=0))
    assert one.client.get("/v1/account").json()["kept"] == 0
    assert one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "cc"}).status_code == 201
    for sealed in ("", "zz", "00" * 4097):
        refused(one.client.post("/v1/drives", json={"uuid": uuid, "sealed": sealed}), 400, "bad_request")


def _set(running: RunningHub, email: str, column: str, value: object) -> None:
    with psycopg.connect(running.conninfo) as connection:
        statement = f"UPDATE account SET {column} = %s WHERE email = %s"
        connection.execute(statement.encode(), (value, email))


def test_a_full_account_stores_nothing_more_but_can_say_what_it_needs_no_more(
    running: RunningHub, one: Person
) -> None:
    _set(running, one.email, "quota", 1000)
    uuids = [os.urandom(16).hex() for _ in range(2)]
    for uuid in uuids:
        one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "aa"})
    block = "/v1/drives/{}/blocks/{}"
    assert one.client.put(block.format(uuids[0], "01" * 32), content=b"x" * 900).status_code == 204
    refused(one.client.put(block.format(uuids[1], "02" * 32), content=b"x" * 101), 507, "quota")
    refused(one.client.get(block.format(uuids[1], "02" * 32)), 404, "not_found")
    assert one.client.get(f"/v1/drives/{uuids[1]}/usage").json()["left"] == 100
    assert one.client.put(block.format(uuids[1], "02" * 32), content=b"x" * 100).status_code == 204
    root = f"/v1/drives/{uuids[1]}/roots/snapshot"
    assert one.client.put(root, content=b"x" * 50).status_code == 204
    refused(one.client.put(root, content=b"x" * 200), 507, "quota")
    assert one.client.get(f"/v1/drives/{uuids[1]}/usage").json()["left"] == 0


def test_a_poll_of_a_locked_account_is_told_so_too(running: RunningHub, one: Person) -> None:
    """401 would say that the device was revoked: its mount would take no changes any more."""
    uuid = os.urandom(16).hex()
    one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "00"})
    asked = {"drives": {uuid: 0}, "timeout": 60}
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(one.client.post, "/v1/wait", json=asked, timeout=90)
        wait_until(lambda: running.hub.heads.polls == 1)
        _set(running, one.email, "locked", "now")
        refused(poll.result(90), 403, "read_only")
    _set(running, one.email, "locked", None)
    assert one.client.post("/v1/wait", json=asked | {"timeout": 0}).status_code == 204


def test_a_locked_account_is_told_so(running: RunningHub, one: Person) -> None:
    _set(running, one.email, "locked", "now")
    refused(one.client.get("/v1/account"), 403, "read_only")
    refused(one.log_in(), 403, "read_only")
    _set(running, one.email, "locked", None)
    assert one.client.get("/v1/account").status_code == 200


def test_an_account_ends_with_all_that_it_has(running: RunningHub, one: Person) -> None:
    uuid = os.urandom(16).hex()
    one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "aa"})
    one.client.put(f"/v1/drives/{uuid}/blocks/{'01' * 32}", content=b"x" * 100)
    wrong = one.proof() | {"auth_key": os.urandom(32).hex()}
    refused(end(one.client, "/v1/account", wrong), 403, "wrong_login")
    assert end(one.client, "/v1/account", one.proof()).status_code == 204
    refused(one.client.get("/v1/account"), 401, "unauthorised")
    refused(one.log_in(), 403, "wrong_login")
    running.call(running.hub.blocks.collect(grace=0))
    with psycopg.connect(running.conninfo) as connection:
        found = connection.execute("SELECT email FROM account WHERE deleted IS NOT NULL").fetchall()
        rows = connection.execute("SELECT * FROM drive WHERE uuid = %s", (bytes.fromhex(uuid),)).fetchall()
    assert (found, rows) == ([], [])
    assert one.sign_up().status_code == 201, "the address is free"


def test_a_closed_hub_takes_who_was_invited(running: RunningHub, people: People) -> None:
    closed = Accounts(running.database, PEPPER, is_open=False)
    one = people.somebody("invited@example.org")
    code = running.call(closed.invite("Invited@example.org"))
    refused(one.sign_up(), 409, "moved")
    refused(one.sign_up(invitation="00" * 16), 409, "moved")
    refused(one.log_in(), 403, "wrong_login")
    with pytest.raises(UsageError, match="only those who were invited"):
        running.call(closed.sign_up("other@example.org", {}, code))
    assert one.sign_up(invitation=code).status_code == 201
    refused(one.sign_up(invitation=code), 409, "moved")
    assert one.log_in().status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"email": 1},
        {"email": "x" * 300},
        {"passphrase": None},
        {"passphrase": {}},
        {"recovery": {**Secret().said(), "lanes": 0}},
        {"recovery": {**Secret().said(), "lanes": True}},
        {"recovery": {**Secret().said(), "memory_kib": 1 << 40}},
        {"recovery": {**Secret().said(), "salt": "00"}},
        {"recovery": {**Secret().said(), "auth_key": "zz" * 32}},
        {"recovery": {**Secret().said(), "wrapped": ""}},
        {"invitation": []},
    ],
)
def test_what_is_no_sign_up(one: Person, change: dict[str, object]) -> None:
    good = {"email": "new@example.org"} | {kind: each.said() for kind, each in one.secrets.items()}
    refused(one.client.post("/v1/accounts", json=good | change), 400, "bad_request")


async def test_an_account_that_asks_too_often_is_told_to_wait(autojump_clock: trio.testing.MockClock) -> None:
    rates = RequestRates(rate=0.5, burst=3)
    for _ in range(3):
        rates.take(1)
    with pytest.raises(ThrottledError) as caught:
        rates.take(1)
    rates.take(2)
    answer = problem(caught.value)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
    await trio.sleep(caught.value.seconds)
    rates.take(1)


def test_what_was_released_makes_room_up_to_twice_the_quota(running: RunningHub, one: Person) -> None:
    _set(running, one.email, "quota", 10_000)
    uuid, head = os.urandom(16).hex(), Head(0, NO_COMMIT)
    drive = f"/v1/drives/{uuid}"
    one.client.post("/v1/drives", json={"uuid": uuid, "sealed": "aa"})
    stored = 0
    for number in range(1, 4):
        block = BlockId(bytes([number]) * 32)
        answer = one.client.put(f"{drive}/blocks/{block.hex()}", content=b"x" * 8000)
        if number == 3:
            refused(answer, 507, "quota")
            break
        assert answer.status_code == 204
        stored += 8000
        for added, gone in (((block,), ()), ((), (block,))):
            commit = Commit(head.number + 1, head.hash, 1, 0, 1, added, gone, b"")
            said = {"Expected-Head": encode_head(head)}
            answer = one.client.post(f"{drive}/log", content=encode_commit(commit), headers=said)
            head = decode_head(answer.text)
    account = one.client.get("/v1/account").json()
    assert account["used"] < 2000, "commits"
    assert account["kept"] == stored > account["quota"]
    running.call(running.hub.blocks.collect(grace=0))
    assert one.client.put(f"{drive}/blocks/{'09' * 32}", content=b"x" * 8000).status_code == 204


def test_released_blocks_are_not_counted_at_each_request(running: RunningHub, one: Person) -> None:
    """Who is full, and has many, cannot keep the database busy."""
    _set(running, one.email, "quota", 1000)
    uuid = os.urandom(16)
    one.client.post("/v1/drives", json={"uuid": uuid.hex(), "sealed": "aa"})
    one.client.put(f"/v1/drives/{uuid.hex()}/blocks/{'01' * 32}", content=b"x" * 1000)
    device = running.call(running.hub.directory.device(bytes.fromhex(_token(one))))
    quotas = Quotas(running.database, fresh=3600)
    assert running.call(quotas.of_account(device.account)).left == 0
    with psycopg.connect(running.conninfo) as connection:
        connection.execute(
            "UPDATE block SET state = 2 WHERE drive = (SELECT id FROM drive WHERE uuid = %s)", (uuid,)
        )
    assert running.call(quotas.of_account(device.account)).left == 0
    assert running.call(Quotas(running.database).of_account(device.account)) == Room(1000, 0, 1000)


def _token(one: Person) -> str:
    return one.client.headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.logs_warnings
def test_what_was_under_way_when_it_ended_leaves_nothing_behind(running: RunningHub, one: Person) -> None:
    """A commit of a drive that is gone, a drive and a device of an account that is."""
    uuid, block = os.urandom(16), BlockId(b"b" * 32)
    one.client.post("/v1/drives", json={"uuid": uuid.hex(), "sealed": "aa"})
    one.client.put(f"/v1/drives/{uuid.hex()}/blocks/{block.hex()}", content=b"x" * 100)
    hub = running.hub
    device = running.call(hub.directory.device(bytes.fromhex(_token(one))))
    drive = running.call(hub.directory.drives(device, [uuid]))[uuid]
    assert end(one.client, "/v1/account", one.proof()).status_code == 204
    commit = encode_commit(Commit(1, NO_COMMIT, 1, 0, 1, (block,), (), b""))
    with pytest.raises(TransientError, match="the drive was deleted"):
        running.call(hub.commits.append(drive.number, commit, Head(0, NO_COMMIT)))
    with pytest.raises(NotFoundError, match="has ended"):
        running.call(hub.directory.add_drive(device.account, os.urandom(16)))
    with pytest.raises(NotFoundError, match="has ended"):
        running.call(hub.directory.add_device(device.account))
    running.call(hub.blocks.collect(grace=0))
    left = "SELECT (SELECT count(*) FROM account WHERE id = %s), (SELECT count(*) FROM drive WHERE id = %s)"
    with psycopg.connect(running.conninfo) as connection:
        assert connection.execute(left, (device.account, drive.number)).fetchall() == [(0, 0)]
        kept = connection.execute("SELECT 1 FROM block WHERE drive = %s", (drive.number,)).fetchall()
    assert kept == []
