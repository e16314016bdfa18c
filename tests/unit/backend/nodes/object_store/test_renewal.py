"""backend.nodes.object_store.renewal: who waits for credentials, and that old ones are used while they are
good."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.nodes import address
from backend.nodes.object_store import client, errors, location, renewal, settings
from backend.nodes.object_store.credentials import CredentialsError, CredentialSource, Secrets
from backend.nodes.object_store.renewal import CurrentCredentials
from backend.system import Environment
from tests.fake_s3 import ACCESS_KEY, FakeS3, Fault, failed, fake_s3


class Source(CredentialSource):
    """Gives what it is told to; `reads` counts, `may_go_on` lets the readers go. Its clocks stand still."""

    def __init__(self, key: str, minutes: float) -> None:
        super().__init__("command:test")
        self.seconds = 1_800_000_000
        self.give(key, minutes)
        self.reads = 0
        self.at = ""
        self.fails = False
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def give(self, key: str, minutes: float) -> None:
        ends = datetime.datetime.fromtimestamp(self.seconds + 60 * minutes, datetime.UTC)
        self.now = Secrets({"access_key_id": key}, ends)

    def current(self) -> CurrentCredentials:
        clocks = Environment(wall_clock=lambda: self.seconds * 10**9, boot_clock=lambda: self.seconds)
        return CurrentCredentials(self, clocks)

    def pause(self) -> None:
        """As long as they are not read again."""
        self.seconds += int(renewal.PAUSE)

    def stamp(self) -> object:
        return self.at

    def read(self) -> Secrets | None:
        self.reads += 1
        assert self.may_go_on.wait(60)
        if self.fails:
            raise CredentialsError("the helper failed")
        return self.now


def key_of(credentials: CurrentCredentials) -> str:
    secrets = credentials.get().secrets
    assert secrets is not None
    return secrets.values["access_key_id"]


def renewed() -> None:
    """Until what is read beside was read."""
    for thread in threading.enumerate():
        if thread.name == renewal.THREAD:
            thread.join(60)
            assert not thread.is_alive()


def test_they_are_read_once_until_five_minutes_before_they_end() -> None:
    source = Source("a", 6)
    credentials = source.current()
    assert [key_of(credentials) for _ in range(10)] == ["a"] * 10
    renewed()
    assert source.reads == 1


def test_near_their_end_they_are_read_beside_by_one_and_the_old_ones_used_meanwhile() -> None:
    source = Source("old", 4)
    credentials = source.current()
    assert key_of(credentials) == "old"
    renewed()
    assert source.reads == 1, "they were read just now"
    source.pause()
    source.give("new", 60)
    source.may_go_on.clear()
    assert [key_of(credentials) for _ in range(10)] == ["old"] * 10
    source.may_go_on.set()
    renewed()
    assert key_of(credentials) == "new"
    assert source.reads == 2


@pytest.mark.logs_warnings
def test_a_helper_that_fails_is_asked_again_later_and_the_old_ones_are_used(
    logged_warnings: list[str],
) -> None:
    source = Source("old", 4)
    credentials = source.current()
    assert key_of(credentials) == "old"
    source.fails = True
    for _ in range(3):
        source.pause()
        assert [key_of(credentials) for _ in range(5)] == ["old"] * 5
        renewed()
    assert source.reads == 4
    assert [message.rpartition(": ")[2] for message in logged_warnings] == ["the helper failed"] * 3
    source.fails = False
    source.give("new", 60)
    source.pause()
    key_of(credentials)
    renewed()
    assert key_of(credentials) == "new"


def test_without_a_thread_to_be_had_the_old_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit of threads: the mount goes on, and the renewal is tried again."""
    source = Source("old", 4)
    credentials = source.current()
    assert key_of(credentials) == "old"
    source.give("new", 60)
    source.pause()

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert key_of(credentials) == "old"
    source.pause()
    key_of(credentials)
    renewed()
    assert key_of(credentials) == "new"


def test_what_has_ended_is_waited_for() -> None:
    source = Source("old", -1)
    credentials = source.current()
    assert key_of(credentials) == "old", "the store may think otherwise"
    source.fails = True
    source.pause()
    for _ in range(2):
        with pytest.raises(CredentialsError):
            credentials.get()
    source.fails = False
    source.give("new", 60)
    assert key_of(credentials) == "new"


def test_a_changed_file_is_read_at_once() -> None:
    source = Source("old", 60)
    credentials = source.current()
    assert key_of(credentials) == "old"
    source.give("new", 60)
    assert key_of(credentials) == "old"
    source.at = "later"
    assert [key_of(credentials) for _ in range(3)] == ["new"] * 3
    assert source.reads == 2


@pytest.mark.parametrize("again", ["old", "new"])
def test_of_many_who_were_refused_at_once_one_reads(again: str) -> None:
    source = Source("old", 60)
    credentials = source.current()
    refused = credentials.get()
    source.give(again, 60)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(credentials.after_refusal, [refused] * 8))
    assert source.reads == 2
    assert all(each.secrets == source.now for each in found)
    assert credentials.after_refusal(found[0]) is not found[0], "who is refused again asks again"


def opened(server: FakeS3) -> client.StoreClient:
    where = location.parse(address.parse(server.node_url(), "/"))
    return client.StoreClient(where, settings.parse({"credentials": "env:FAKE"}, "x"))


ENDINGS: dict[str, Callable[[client.StoreClient], object]] = {
    "get": lambda store: store.get("a"),
    "put": lambda store: store.put("a", [b"1"]),
    "keys": lambda store: list(store.pages("")),
}


@pytest.mark.parametrize("call", ENDINGS)
@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (400, "TokenRefreshRequired"), (403, "ExpiredToken")]
)
def test_what_a_store_says_of_credentials_that_ended(call: str, status: int, code: str) -> None:
    with fake_s3() as server:
        store = opened(server)
        store.put("a", [b"1"])
        method, key = ("PUT", "a") if call == "put" else ("GET", "a" if call == "get" else "")
        server.faults = [Fault(method, key, failed(status, code))]
        with pytest.raises(errors.RefusedError, match=code):
            ENDINGS[call](store)


@pytest.mark.parametrize("page", [1, 4, 1000])
def test_a_listing_goes_on_with_new_credentials(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """They end at each of its requests."""
    monkeypatch.setattr(client, "LIST_PAGE", page)
    with fake_s3() as server:
        server.page = page
        keys = [f"packs/{number:02d}" for number in range(12)]
        server.objects.update({f"prefix/{key}": b"" for key in keys})
        store = opened(server)
        found = []
        for number, listed in enumerate(store.pages("packs/")):
            found += [each.key for each in listed]
            server.access_key = f"AK{number}"
            monkeypatch.setenv("FAKE_ACCESS_KEY_ID", server.access_key)
        assert found == keys


@pytest.mark.logs_warnings
def test_a_refusal_says_too_why_there_are_no_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_s3() as server:
        store = opened(server)
        store.put("a", [b"1"])
        server.access_key = "another"
        for name in ("FAKE_ACCESS_KEY_ID", "FAKE_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(errors.RefusedError, match=r"InvalidAccessKeyId; no variable FAKE_ACCESS_KEY_ID"):
            store.get("a")
        server.access_key = ACCESS_KEY
        assert store.get("a") == b"1"
