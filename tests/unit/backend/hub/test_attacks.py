"""The hub's door from outside: who has no right, bodies and names that are none, many at once.

No request is a fault of the hub: each answer is a success or a problem (RFC 9457), and a fault would be
logged, which fails a test.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from backend import wire
from backend.commits import encode_commit
from backend.hub import app, decoding
from backend.upstream import NO_COMMIT, BlockId, Commit, Head
from tests import plain_http
from tests.hub_server import RunningHub, hub_for_test

OPEN = {
    ("POST", "/v1/accounts"),
    ("POST", "/v1/login/start"),
    ("POST", "/v1/login/finish"),
    ("GET", "/v1/openapi.json"),
}
"""All that is answered to who shows no token."""
BLOCK = "5a" * 32
FUZZ = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@dataclass
class Victim:
    """An account with a device, a drive, a block and a root."""

    running: RunningHub
    uuid: bytes
    token: bytes
    device: int

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.hex()}"}

    def path(self, template: str) -> str:
        """The template with what is the victim's."""
        own = {"uuid": self.uuid.hex(), "device": str(self.device), "block": BLOCK, "name": "snapshot"}
        return template.format(**own)


def new_victim(running: RunningHub) -> Victim:
    uuid, token = running.new_drive()
    victim = Victim(running, uuid, token, running.call(running.hub.directory.device(token)).number)
    url = f"{running.url}/v1/drives/{uuid.hex()}"
    with httpx.Client(verify=False, headers=victim.headers) as client:
        assert client.put(f"{url}/blocks/{BLOCK}", content=b"block").status_code == 204
        assert client.put(f"{url}/roots/snapshot", content=b"root").status_code == 204
    return victim


@pytest.fixture
def victim(running: RunningHub) -> Victim:
    return new_victim(running)


def dump(running: RunningHub) -> dict[str, list[tuple[object, ...]]]:
    """All that the database has, but for when devices were seen."""
    with psycopg.connect(running.conninfo) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
        ).fetchall()
        found = {name: connection.execute(f"SELECT * FROM {name}".encode()).fetchall() for (name,) in names}
        found["device"] = connection.execute("SELECT id, account, token, revoked FROM device").fetchall()
        return {name: sorted(rows, key=repr) for name, rows in found.items()}


def is_answer(answer: httpx.Response) -> None:
    """A success, or a problem of who asks."""
    assert answer.status_code < 500 or answer.status_code in (503, 507), answer.text
    assert not 300 <= answer.status_code < 400
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        assert answer.json()["type"].startswith("urn:drivefs:")
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    assert ("allow" in answer.headers) == (answer.status_code == 405)


def operations(running: RunningHub) -> list[tuple[str, str]]:
    """Method and path of every route that the hub has: what is added is tested by itself."""
    return [
        (method, route.path)
        for route in app(running.hub).routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]


def test_who_may_ask_what(running: RunningHub, victim: Victim) -> None:
    """Nobody without a token, and of another's drive or device nobody learns that it is there."""
    revoked, stranger = new_victim(running), new_victim(running)
    running.call(running.hub.directory.revoke(*_device(revoked)))
    before, seen = dump(running), set()
    client = httpx.Client(verify=False)  # else it reads all certificates
    for method, template in operations(running):
        url = running.url + victim.path(template)
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": f"Basic {victim.token.hex()}"},
            {"Authorization": f"Bearer {'00' * 32}"},
            {"Authorization": f"Bearer {victim.token.hex()[:-2]}"},
            {"Authorization": f"Bearer {victim.token.hex()} {victim.token.hex()}"},
            {"Cookie": f"token={victim.token.hex()}"},
            revoked.headers,
        ):
            answer = client.request(method, url, headers=headers, content=b"{}")
            if answer.status_code != 401:
                seen.add((method, template))
        if "{" in template:
            answer = client.request(method, url, headers=stranger.headers, content=_body(template))
            assert answer.status_code == 404, (method, template, answer.text)
            if method != "HEAD":
                is_answer(answer)
    assert {(method, template) for method, template in seen if method != "HEAD"} == OPEN
    client.close()
    assert dump(running) == before


def _device(victim: Victim) -> tuple[int, int]:
    device = victim.running.call(victim.running.hub.directory.device(victim.token))
    return device.account, device.number


def _body(template: str) -> bytes:
    """One that would be taken if there were a right to it."""
    if template.endswith(("missing", "sizes")):
        return bytes(32)
    return b'{"name": "ab", "sealed": "ab", "uuid": "' + b"ab" * 16 + b'"}'


def test_each_operation_takes_any_bytes_for_a_request(running: RunningHub) -> None:
    """Bodies, queries and headers at random, with a right to ask."""
    for method, template in operations(running):
        if method == "HEAD":
            continue
        victim = new_victim(running)
        with httpx.Client(verify=False, base_url=running.url, headers=victim.headers) as client:
            _fuzz(client, method, victim.path(template))


def _fuzz(client: httpx.Client, method: str, path: str) -> None:
    @FUZZ
    @given(BODIES, QUERIES, HEADERS)
    def ask(body: bytes, query: dict[str, str], headers: dict[str, str]) -> None:
        is_answer(client.request(method, path, content=body, params=query, headers=headers))

    ask()


NASTY = st.one_of(
    st.sampled_from(
        ["", "'", "';DROP TABLE drive;--", "\0", "%", "\\", "1 OR 1=1", "\u00b2", "-1", "9" * 30, "1e9"]
    ),
    st.sampled_from(["0x10", "zz" * 32, "ab" * 16, "ab " * 16, "A" * 3000, "\U0001f600" * 50, "../../x"]),
    st.text(max_size=20),
    st.integers(-5, 1 << 70).map(str),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), NASTY),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NASTY, inner, max_size=3)),
    max_leaves=6,
)
FIELDS = (
    "email",
    "kind",
    "auth_key",
    "code",
    "uuid",
    "sealed",
    "name",
    "drives",
    "timeout",
    "proof",
    "ticket",
)
MORE = ("passphrase", "recovery", "invitation", "salt", "wrapped", "memory_kib", "iterations", "lanes")


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


BODIES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"[" * 60_000, b"{}", b"null", b'{"email":"\\ud800"}', b"1" * 5000, b"\xff", bytes(64)]),
    st.dictionaries(st.sampled_from(FIELDS + MORE), JSON, max_size=6).map(_dumped),
    st.dictionaries(
        st.sampled_from(("passphrase", "recovery")), st.dictionaries(st.sampled_from(FIELDS + MORE), JSON)
    ).map(_dumped),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(b"".join),
)
QUERIES = st.dictionaries(
    st.sampled_from(("after", "limit", "offset", "length", "again", "near")), NASTY, max_size=3
)
_LATIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
HEADERS = st.dictionaries(
    st.sampled_from(
        ("Expected-Head", "Import-Ticket", "Range", "If-Match", "Content-Type", "Content-Encoding")
    ),
    st.one_of(_LATIN, st.sampled_from(["0:" + "00" * 32, "1_0:" + "00" * 32, "-1:" + "00" * 32, "9" * 5000])),
    max_size=2,
)


@pytest.mark.parametrize(
    "nasty", ["'", "';DROP TABLE drive;--", "\0", "%", "\u00b2", "9" * 5000, "a" * 30_000, "x/y"]
)
def test_no_name_in_a_path_reaches_the_database_as_anything_else(
    running: RunningHub, victim: Victim, nasty: str
) -> None:
    before = dump(running)
    with httpx.Client(verify=False, base_url=running.url, headers=victim.headers) as client:
        for method, template in operations(running):
            for part in ("uuid", "device", "block", "name"):
                if f"{{{part}}}" not in template or method == "HEAD":
                    continue
                path = victim.path(template.replace(f"{{{part}}}", quote(nasty, safe="").replace("{", "")))
                answer = client.request(method, path, content=_body(template))
                assert answer.status_code in (400, 404, 405), (method, path[:100], answer.text)
                is_answer(answer)
    assert dump(running) == before


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1/drives/",
        "/v1/drives//head",
        "/v1/drives/../drives",
        "/v1/drives/%2e%2e/account",
        "/v1/drives/{uuid}/",
        "/v1/drives/{uuid}/head/",
        "/v1/drives/{uuid}/roots/..",
        "/v1/drives/{uuid}/roots/%2e%2e%2fx",
        "/v1/drives/{uuid}/roots/%00",
        "/v1/drives/{uuid}/roots/%ff%fe",
        "/v1/drives/{uuid}/blocks/../head",
        "/V1/wait",
        "/v1/wait;x",
        "/v1/%77ait",
        "/v2/wait",
        "/v1/drives/{uuid}%20/head",
        "/v1/drives/%20{uuid}/head",
        "http://127.0.0.1/v1/wait",
        "*",
    ],
)
def test_odd_paths_are_no_other_ones(running: RunningHub, victim: Victim, path: str) -> None:
    """And none leads to the host that a client names."""
    head = f"GET {path.replace('{uuid}', victim.uuid.hex())} HTTP/1.1\r\nHost: evil.example\r\n"
    answer = raw(running, head + f"Authorization: Bearer {victim.token.hex()}\r\nConnection: close\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 404, 405), answer
    assert b"evil" not in answer


def raw(running: RunningHub, request: str, *, then: bytes = b"") -> bytes:
    """All that the hub answers to these bytes."""
    parts = urlsplit(running.url)
    with socket.create_connection((parts.hostname, parts.port), 20) as connection:
        connection.sendall(request.encode("latin-1") + then)
        answer = b""
        while more := connection.recv(1 << 16):
            answer += more
        return answer


FRAMINGS = [
    ("Content-Length: x", b""),
    ("Content-Length: -1", b""),
    ("Content-Length: 99999999999999999999999", b""),
    ("Content-Length: 5\r\nContent-Length: 6", b"hello"),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"zz\r\n"),
    ("Transfer-Encoding: chunked", b"ffffffffffffffffffff\r\n"),
    ("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    ("Content-Length: 99999999", b"x"),
    ("Transfer-Encoding: chunked", b"10001\r\n" + bytes(65537) + b"\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize(("framing", "body"), FRAMINGS)
@pytest.mark.logs_warnings  # the server's: "Invalid HTTP request received."
def test_bodies_that_are_framed_wrongly_or_too_large_are_refused(
    running: RunningHub, victim: Victim, framing: str, body: bytes
) -> None:
    head = f"POST /v1/wait HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {victim.token.hex()}\r\n"
    answer = raw(running, f"{head}Connection: close\r\n{framing}\r\n\r\n", then=body)
    assert answer.split(b" ", 2)[1] in (b"400", b"413"), answer[:200]
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_whose_client_leaves_is_no_fault(running: RunningHub, victim: Victim) -> None:
    parts = urlsplit(running.url)
    head = f"PUT /v1/drives/{victim.uuid.hex()}/blocks/{'77' * 32} HTTP/1.1\r\nHost: h\r\n"
    for sent in (0, 1, 90_000):
        with socket.create_connection((parts.hostname, parts.port), 20) as connection:
            request = f"{head}Authorization: Bearer {victim.token.hex()}\r\nContent-Length: 100000\r\n\r\n"
            connection.sendall(request.encode() + bytes(sent))
    url = f"{running.url}/v1/drives/{victim.uuid.hex()}"
    assert plain_http.get(f"{url}/blocks/{'77' * 32}", headers=victim.headers).status_code == 404


def test_a_device_that_is_revoked_while_its_body_comes_is_refused(
    running: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body may come for hours: what was let in before it is not let in for ever."""
    monkeypatch.setattr(decoding, "_LATE", 0.0)
    thief = new_victim(running)
    body, where = encode_commit(following(Head(0, NO_COMMIT), [], 1)), urlsplit(running.url)
    head = (
        f"POST /v1/drives/{thief.uuid.hex()}/log HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        f"Authorization: {thief.headers['Authorization']}\r\nContent-Length: {len(body)}\r\n"
        f"Expected-Head: {wire.encode_head(Head(0, NO_COMMIT))}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        running.call(running.hub.directory.revoke(*_device(thief)))
        connection.sendall(body)
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 401 "), answer
    with psycopg.connect(running.conninfo) as database:
        assert database.execute("SELECT head FROM drive WHERE uuid = %s", (thief.uuid,)).fetchone() == (0,)


def test_many_idle_connections_keep_nobody_out(running: RunningHub, victim: Victim) -> None:
    parts = urlsplit(running.url)
    idle = [socket.create_connection((parts.hostname, parts.port), 20) for _ in range(300)]
    try:
        for connection in idle[:150]:
            connection.sendall(b"GET /v1/drives HTTP/1.1\r\nHost:")
        url = f"{running.url}/v1/drives/{victim.uuid.hex()}/head"
        assert plain_http.get(url, headers=victim.headers, timeout=20).status_code == 200
    finally:
        for connection in idle:
            connection.close()


# Several at once


@dataclass
class Writer:
    """A process of a device, in a thread: it puts blocks and appends commits that name them."""

    victim: Victim
    number: int
    acknowledged: set[bytes]

    def write(self, commits: int) -> None:
        url = f"{self.victim.running.url}/v1/drives/{self.victim.uuid.hex()}"
        source = random.Random(self.number)
        with httpx.Client(verify=False, headers=self.victim.headers, timeout=60) as client:
            for _ in range(commits):
                blocks = [source.randbytes(32) for _ in range(3)]
                while not self._append(client, url, blocks):
                    pass
                self.acknowledged |= {*blocks}

    def _append(self, client: httpx.Client, url: str, blocks: list[bytes]) -> bool:
        body = b"".join(block + (100).to_bytes(4, "little") + content(block) for block in blocks)
        assert client.post(f"{url}/blocks", content=body).status_code == 204
        head = wire.decode_head(client.get(f"{url}/head").text)
        commit = following(head, blocks, self.number)
        said = {"Expected-Head": wire.encode_head(head)}
        answer = client.post(f"{url}/log", content=encode_commit(commit), headers=said)
        assert answer.status_code in (201, 409, 422), answer.text
        return answer.status_code == 201


def content(block: bytes) -> bytes:
    return block * 3 + b"data"


def following(head: Head, added: list[bytes], device: int, dropped: list[bytes] | None = None) -> Commit:
    ids = tuple(sorted(map(BlockId, added)))
    return Commit(
        head.number + 1, head.hash, device, 0, 1, ids, tuple(map(BlockId, dropped or [])), os.urandom(9)
    )


def test_of_appends_to_one_head_one_is_taken(running: RunningHub, victim: Victim) -> None:
    """By processes of one device that know nothing of each other; all others are told that it moved."""
    url = f"{running.url}/v1/drives/{victim.uuid.hex()}"
    head = Head(0, NO_COMMIT)

    def append(number: int) -> tuple[int, str]:
        said = {**victim.headers, "Expected-Head": wire.encode_head(head)}
        body = encode_commit(following(head, [], number))
        answer = plain_http.post(f"{url}/log", content=body, headers=said, timeout=60, verify=False)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(8) as pool:
        for number in range(1, 11):
            answers = list(pool.map(append, range(8)))
            taken = [text for status, text in answers if status == 201]
            assert len(taken) == 1
            assert [status for status, _ in answers].count(409) == 7
            head = wire.decode_head(taken[0])
            assert head.number == number
    assert plain_http.get(f"{url}/head", headers=victim.headers).text == wire.encode_head(head)


def test_what_commits_name_outlives_a_collector_without_mercy(running: RunningHub, victim: Victim) -> None:
    """It deletes all that no commit names, between putting and appending too: an append that lacks something
    is refused, and one that is acknowledged has all its blocks."""
    writers = [Writer(victim, number, set()) for number in range(4)]
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            running.call(running.hub.blocks.collect(grace=0.05))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(partial(writer.write, 12)) for writer in writers]:
                done.result(120)
    finally:
        is_over.set()
        collector.join()
    running.call(running.hub.blocks.collect(grace=0))
    url = f"{running.url}/v1/drives/{victim.uuid.hex()}"
    with httpx.Client(verify=False, headers=victim.headers) as client:
        for block in set().union(*(writer.acknowledged for writer in writers)):
            assert client.get(f"{url}/blocks/{block.hex()}").content == content(block)
        count = wire.decode_head(client.get(f"{url}/head").text).number
    assert count == 4 * 12


def test_a_block_that_is_given_again_is_kept_as_long_as_a_new_one(
    running: RunningHub, victim: Victim
) -> None:
    url = f"{running.url}/v1/drives/{victim.uuid.hex()}/blocks/{BLOCK}"
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET changed = now() - interval '29 days'")
    assert plain_http.put(url, content=b"block", headers=victim.headers).status_code == 204
    running.call(running.hub.blocks.collect(grace=28 * 86_400))
    assert plain_http.get(url, headers=victim.headers).content == b"block"
