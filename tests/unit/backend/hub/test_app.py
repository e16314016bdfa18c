"""The door of the hub: no right, no answer; and every refusal is a problem (RFC 9457)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from hashlib import sha256

import httpx
import psycopg
import pytest

from backend import wire
from backend.commits import encode_commit
from backend.errors import FormatError
from backend.hub import migrate, require_current
from backend.hub.migrations import migrations
from backend.hub.packing import DriveNumber
from backend.remote.hub_client import MOST
from backend.upstream import NO_COMMIT, BlockId, Commit, Head
from backend.wire import content_digest
from tests import plain_http
from tests.contents import content
from tests.hub_server import RunningHub, hub_for_test
from tests.postgres import new_database
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def drive(running: RunningHub) -> tuple[str, dict[str, str]]:
    """The URL of a new drive, and the header of its device."""
    uuid, token = running.new_drive()
    return f"{running.url}/v1/drives/{uuid.hex()}", {"Authorization": f"Bearer {token.hex()}"}


def refused(answer: httpx.Response, status: int, kind: str) -> None:
    """It is the problem of that kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["type"] == f"urn:drivefs:{kind}"
    assert answer.json()["status"] == status


PATHS = ("head", "log", "blocks", f"blocks/{'00' * 32}", "usage", "roots/snapshot")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_said_without_a_token_or_by_that_of_another_account(
    running: RunningHub, drive: tuple[str, dict[str, str]], path: str
) -> None:
    url, _ = drive
    _, other = running.new_drive()
    for header in ({}, {"Authorization": "Basic x"}, {"Authorization": f"Bearer {'ab' * 32}"}):
        refused(plain_http.get(f"{url}/{path}", headers=header), 401, "unauthorised")
    refused(
        plain_http.get(f"{url}/{path}", headers={"Authorization": f"Bearer {other.hex()}"}), 404, "not_found"
    )


def test_a_device_comes_with_the_drive_that_it_asks_for(running: RunningHub) -> None:
    """One of its own account, that was not deleted."""
    directory = running.hub.directory
    (uuid, token), (others, _) = running.new_drive(), running.new_drive()
    device = running.call(directory.device(token, uuid))
    assert device.drive == running.call(directory.drives(device, [uuid]))[uuid].number
    second = running.call(directory.device(running.another_token(token), uuid))
    assert (second.drive, second.account) == (device.drive, device.account)
    for wrong in (others, b"", b"\0", uuid[:-1], uuid + b"\0", bytes(16), content("random", 16_000)):
        found = running.call(directory.device(token, wrong))
        assert (found.drive, found.number) == (None, device.number)
    running.call(directory.delete_drive(device, DriveNumber(device.drive or 0, uuid)))
    assert running.call(directory.device(token, uuid)).drive is None


@pytest.mark.parametrize("path", PATHS)
def test_a_drive_that_was_deleted_is_found_no_more_at_once(running: RunningHub, path: str) -> None:
    uuid, token = running.new_drive()
    url, header = f"{running.url}/v1/drives/{uuid.hex()}", {"Authorization": f"Bearer {token.hex()}"}
    assert plain_http.get(f"{url}/head", headers=header).status_code == 200
    assert plain_http.delete(url, headers=header).status_code == 204
    refused(plain_http.get(f"{url}/{path}", headers=header), 404, "not_found")
    refused(plain_http.delete(url, headers=header), 404, "not_found")


@pytest.mark.parametrize("named", ["x", "00", "ab" * 17, "é" * 16, "ab " * 16, "00" * 4000, "%00", "g" * 32])
def test_what_is_no_id_of_a_drive_is_refused_after_the_token(
    running: RunningHub, drive: tuple[str, dict[str, str]], named: str
) -> None:
    _, header = drive
    url = f"{running.url}/v1/drives/{named}/head"
    refused(plain_http.get(url), 401, "unauthorised")
    refused(plain_http.get(url, headers=header), 400, "bad_request")


def test_a_body_that_changed_on_its_way_is_not_stored(
    running: RunningHub, drive: tuple[str, dict[str, str]]
) -> None:
    url, header = drive
    data = content("half-compressible", 300_000, 1)
    right, other = (content_digest(sha256(each).digest()) for each in (data, data[:-1]))
    block = f"{url}/blocks/{os.urandom(32).hex()}"
    for said in (other, f"sha-512=:{'A' * 86}==:, {other}", f"{other};q=1"):
        refused(
            plain_http.put(block, headers=header | {"Content-Digest": said}, content=data), 422, "damaged"
        )
        refused(plain_http.get(block, headers=header), 404, "not_found")
    root = f"{url}/roots/snapshot"
    refused(plain_http.put(root, headers=header | {"Content-Digest": other}, content=data), 422, "damaged")
    refused(plain_http.get(root, headers=header), 404, "not_found")
    for said in (right, f"sha-512=:{'A' * 86}==:", "", "sha-256=:short:"):
        one = f"{url}/blocks/{os.urandom(32).hex()}"
        sent = plain_http.put(one, headers=header | {"Content-Digest": said}, content=data)
        assert sent.status_code == 204


def test_a_revoked_device_gets_nothing_more_at_once(running: RunningHub) -> None:
    uuid, token = running.new_drive()
    url, header = f"{running.url}/v1/drives/{uuid.hex()}/head", {"Authorization": f"Bearer {token.hex()}"}
    assert plain_http.get(url, headers=header).status_code == 200
    device = running.call(running.hub.directory.device(token))
    running.call(running.hub.directory.revoke(device.account, device.number))
    refused(plain_http.get(url, headers=header), 401, "unauthorised")


@pytest.mark.parametrize(("minutes", "is_noted"), [(59, False), (61, True)])
def test_a_device_that_comes_often_is_noted_once_an_hour(
    running: RunningHub, minutes: int, is_noted: bool
) -> None:
    uuid, token = running.new_drive()
    device = running.call(running.hub.directory.device(token)).number
    ago = f"now() - interval '{minutes} minutes'"
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        connection.execute(f"UPDATE device SET seen = {ago}, heard = {ago} WHERE id = %s".encode(), (device,))
        url, header = f"{running.url}/v1/drives/{uuid.hex()}/head", {"Authorization": f"Bearer {token.hex()}"}
        assert plain_http.get(url, headers=header).status_code == 200
        row = connection.execute(
            "SELECT seen > now() - interval '1 minute' FROM device WHERE id = %s", (device,)
        ).fetchone()
    assert row == (is_noted,)


def test_what_is_no_block_commit_or_number_is_refused(drive: tuple[str, dict[str, str]]) -> None:
    url, header = drive
    with httpx.Client(verify=False, headers=header) as client:
        refused(client.put(f"{url}/blocks/{'00' * 32}", content=b"x" * (5 << 20)), 413, "too_large")
        refused(client.put(f"{url}/blocks/{'00' * 32}", content=b""), 422, "malformed")
        refused(client.put(f"{url}/blocks/zz", content=b"x"), 400, "bad_request")
        refused(client.post(f"{url}/blocks", content=b"x" * 40), 422, "malformed")
        refused(client.post(f"{url}/blocks/missing", content=b"x"), 422, "malformed")
        refused(client.get(f"{url}/log", params={"after": "-1"}), 400, "bad_request")
        refused(client.post(f"{url}/log", content=b"x"), 422, "malformed")
        said = {"Expected-Head": wire.encode_head(Head(0, NO_COMMIT))}
        refused(client.post(f"{url}/log", content=b"no commit", headers=said), 422, "malformed")
        later = encode_commit(Commit(2, NO_COMMIT, 1, 0, 1, (), (), b""))
        refused(client.post(f"{url}/log", content=later, headers=said), 422, "malformed")
        lacking = encode_commit(Commit(1, NO_COMMIT, 1, 0, 1, (BlockId(b"b" * 32),), (), b""))
        answer = client.post(f"{url}/log", content=lacking, headers=said)
        refused(answer, 422, "blocks_missing")
        assert answer.json()["blocks"] == ["62" * 32]
        assert client.get(f"{url}/head").text == wire.encode_head(Head(0, NO_COMMIT))


def test_no_device_costs_others_a_block(drive: tuple[str, dict[str, str]]) -> None:
    """One that doubts a good block and gives another in its place: who finds that out gets the good one."""
    url, header = drive
    block = f"{url}/blocks/{'ab' * 32}"
    with httpx.Client(verify=False, headers=header) as client:
        client.put(block, content=b"good")
        assert client.post(f"{block}/wrong").json() == {"elsewhere": False}
        for data in (b"bad", b"worse"):
            assert client.put(block, content=data).status_code == 204
            assert client.get(block).content == data
            assert client.post(f"{block}/wrong").json() == {"elsewhere": True}
            assert client.get(f"{block}?again=1").content == b"good"
        for _ in range(2):
            client.post(f"{block}/wrong")
        assert client.post(f"{block}/wrong").json() == {"elsewhere": False}


def test_what_no_commit_names_is_deleted_and_what_one_names_stays(
    running: RunningHub, drive: tuple[str, dict[str, str]]
) -> None:
    url, header = drive
    named, dropped, unnamed = (bytes([number]) * 32 for number in (1, 2, 3))
    with httpx.Client(verify=False, headers=header) as client:
        for block in (named, dropped, unnamed):
            client.put(f"{url}/blocks/{block.hex()}", content=block * 100)
        head = Head(0, NO_COMMIT)
        for added, gone in (((named, dropped), ()), ((), (dropped,))):
            commit = Commit(head.number + 1, head.hash, 1, 0, 1, _ids(added), _ids(gone), b"")
            said = {"Expected-Head": wire.encode_head(head)}
            answer = client.post(f"{url}/log", content=encode_commit(commit), headers=said)
            head = wire.decode_head(answer.text)
        fragments = sum(len(node.objects) for node in running.nodes.values())
        assert running.call(running.hub.blocks.collect()) == 0
        assert sum(len(node.objects) for node in running.nodes.values()) == fragments
        assert running.call(running.hub.blocks.collect(grace=0)) >= 2
        assert sum(len(node.objects) for node in running.nodes.values()) <= fragments - 12
        assert client.get(f"{url}/blocks/{named.hex()}").content == named * 100
        for block in (dropped, unnamed):
            refused(client.get(f"{url}/blocks/{block.hex()}"), 404, "not_found")


def _ids(blocks: tuple[bytes, ...]) -> tuple[BlockId, ...]:
    return tuple(map(BlockId, blocks))


@pytest.mark.logs_warnings
def test_nothing_is_acknowledged_that_is_not_stored(
    running: RunningHub, drive: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, header = drive
    block = f"{url}/blocks/{'cd' * 32}"

    async def fail(*_: object) -> None:
        raise RuntimeError("of the hub itself")

    with httpx.Client(verify=False, headers=header) as client:
        for node in list(running.nodes.values())[:2]:
            node.away = True
        refused(client.put(block, content=b"data"), 503, "later")
        for node in running.nodes.values():
            node.away, node.full = False, True
        refused(client.put(block, content=b"data"), 507, "full")
        for node in running.nodes.values():
            node.full = False
        with monkeypatch.context() as patched:
            patched.setattr(running.hub.table, "add", fail)
            refused(client.put(block, content=b"data"), 503, "later")
        refused(client.get(block), 404, "not_found")
        assert client.put(block, content=b"data").status_code == 204
        assert client.get(block).content == b"data"


def test_what_lacks_fragments_is_counted(running: RunningHub, drive: tuple[str, dict[str, str]]) -> None:
    url, header = drive
    with httpx.Client(verify=False, headers=header) as client:
        client.put(f"{url}/blocks/{'01' * 32}", content=b"with all of them")
        # The last fragments come after the answer.
        wait_until(lambda: client.get(f"{url}/usage").json()["lacking"] == 0)
        assert client.get(f"{url}/usage").json() == {
            "blocks": 1,
            "bytes": 16,
            "packs": 1,
            "lacking": 0,
            "quota": 10**10,
            "left": 10**10 - 16,
        }
        running.nodes["node0"].away = True
        try:
            client.put(f"{url}/blocks/{'02' * 32}", content=b"without one")
        finally:
            running.nodes["node0"].away = False
        assert client.get(f"{url}/usage").json()["lacking"] == 1


def test_paths_and_methods_that_there_are_not_are_problems_too(drive: tuple[str, dict[str, str]]) -> None:
    url, header = drive
    refused(plain_http.get(f"{url}/nothing", headers=header), 404, "bad_request")
    refused(plain_http.delete(f"{url}/head", headers=header), 405, "bad_request")


@pytest.mark.parametrize("timeout", ["NaN", "Infinity", "-1", "121", '"1"', "true", "null"])
def test_no_poll_is_without_an_end(running: RunningHub, timeout: str) -> None:
    uuid, token = running.new_drive()
    header = {"Authorization": f"Bearer {token.hex()}"}
    asked = f'{{"drives": {{"{uuid.hex()}": 0}}, "timeout": {timeout}}}'
    refused(plain_http.post(f"{running.url}/v1/wait", content=asked, headers=header), 400, "bad_request")


def test_a_poll_ends_when_its_time_is_over(running: RunningHub) -> None:
    uuid, token = running.new_drive()
    header = {"Authorization": f"Bearer {token.hex()}"}
    asked = {"drives": {uuid.hex(): 0}, "timeout": 0.1}
    assert plain_http.post(f"{running.url}/v1/wait", json=asked, headers=header).status_code == 204
    refused(plain_http.post(f"{running.url}/v1/wait", json={}, headers=header), 400, "bad_request")


def test_a_poll_of_no_time_says_what_is_there(running: RunningHub) -> None:
    """Regression: the look into the database was given up, which cost its connection too."""
    uuid, token = running.new_drive()
    header = {"Authorization": f"Bearer {token.hex()}"}
    commit = encode_commit(Commit(1, NO_COMMIT, 1, 0, 1, (), (), b""))
    with httpx.Client(verify=False, base_url=f"{running.url}/v1", headers=header) as client:
        said = {"Expected-Head": wire.encode_head(Head(0, NO_COMMIT))}
        assert client.post(f"/drives/{uuid.hex()}/log", content=commit, headers=said).status_code == 201
        answer = client.post("/wait", json={"drives": {uuid.hex(): 0}, "timeout": 0})
    assert answer.json() == {"drives": {uuid.hex(): 1}}


def test_a_database_without_a_token_in_clear(running: RunningHub) -> None:
    """Who has read it can use none."""
    _, token = running.new_drive()
    with psycopg.connect(running.conninfo) as connection:
        rows = connection.execute("SELECT * FROM device").fetchall()
    assert all(
        token not in (bytes(value) if isinstance(value, bytes) else b"") for row in rows for value in row
    )


async def _migrated(conninfo: str) -> list[int]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        return await migrate(connection)


def test_migrations_are_applied_once_and_others_are_refused(running: RunningHub) -> None:
    conninfo = new_database()
    assert running.call(_migrated(conninfo)) == [*migrations()]
    assert running.call(_migrated(conninfo)) == []
    running.call(_required(conninfo))
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE schema_migration SET hash = %s", (os.urandom(32),))
    with pytest.raises(FormatError, match="migration 1"):
        running.call(_migrated(conninfo))
    with pytest.raises(FormatError, match="migrate it"):
        running.call(_required(new_database()))


def test_any_number_of_processes_migrate_at_once(running: RunningHub) -> None:
    conninfo = new_database()

    async def all_at_once() -> list[list[int]]:
        return await asyncio.gather(*(_migrated(conninfo) for _ in range(4)))

    assert sorted(running.call(all_at_once())) == [[], [], [], [*migrations()]]
    running.call(_required(conninfo))


async def _required(conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await require_current(connection)


def test_a_drive_has_so_many_roots(drive: tuple[str, dict[str, str]]) -> None:
    """Empty ones take nothing of a quota, and there would be no end of them."""
    url, header = drive
    with httpx.Client(verify=False, headers=header) as client:
        for number in range(64):
            assert client.put(f"{url}/roots/{number}", content=b"").status_code == 204
        refused(client.put(f"{url}/roots/64", content=b""), 422, "refused")
        assert client.put(f"{url}/roots/63", content=b"another").status_code == 204
        assert client.get(f"{url}/roots/63").content == b"another"


def test_a_commit_that_lacks_very_many_blocks_is_told_of_some(drive: tuple[str, dict[str, str]]) -> None:
    """All of them were more than a device takes for an answer: it could never have given them anew."""
    url, header = drive
    added = tuple(BlockId(number.to_bytes(32)) for number in range(150_000))
    body = encode_commit(Commit(1, NO_COMMIT, 1, 0, 1, added, (), b""))
    said = header | {"Expected-Head": wire.encode_head(Head(0, NO_COMMIT))}
    answer = plain_http.post(f"{url}/log", content=body, headers=said, timeout=60)
    refused(answer, 422, "blocks_missing")
    assert answer.json()["detail"].startswith("150000 blocks")
    assert len(answer.json()["blocks"]) == 100_000
    assert len(answer.content) < MOST
