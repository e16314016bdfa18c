"""The shadow of a namespace: a later state that is made beside it, and may take its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from stat import S_IFREG

import apsw
import pytest

from backend.errors import TransientError
from cache.namespace import Connection, DisplacedError, Namespace, Shadow
from cache.namespace.namespace_file import NamespaceFile
from cache.namespace.operations import ROOT_INODE, Create, Pin, Rename, SetAttributes, Unlink

PATIENCE = 60


def create(namespace: Namespace, name: bytes) -> Create:
    return Create(ROOT_INODE, name, namespace.allocate_inode(), S_IFREG | 0o644, 0, 0, 0, b"", 1)


def names(namespace: Namespace) -> list[bytes]:
    return [entry.name for entry in namespace.entries(ROOT_INODE, 0, 1000)]


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(str(tmp_path / "namespace.db"), device=1)
    namespace.apply(create(namespace, b"a"))
    namespace.record_commit(1, b"h" * 32, 1)
    namespace.begin_commit(2)
    namespace.save(1)
    yield namespace
    namespace.close()


def shadow_of(namespace: Namespace) -> Shadow[Namespace]:
    shadow = namespace.shadow()
    assert shadow is not None
    return shadow


def test_what_is_done_to_a_shadow_is_not_seen(original: Namespace) -> None:
    shadow = shadow_of(original)
    shadow.namespace.undo(0)
    shadow.namespace.apply(create(shadow.namespace, b"b"))
    assert names(shadow.namespace) == [b"b"]
    assert names(original) == [b"a"]
    assert shadow.is_there
    shadow.give_way()
    assert names(original) == [b"a"]
    assert not shadow.is_there


def test_a_shadow_that_takes_the_place_is_saved_as_any_state(original: Namespace) -> None:
    shadow = shadow_of(original)
    shadow.namespace.undo(0)
    shadow.namespace.apply(create(shadow.namespace, b"b"))
    original.take_place(shadow)
    assert names(original) == [b"b"]
    original.apply(create(original, b"c"))
    original.save(2)
    original.close()
    again = Namespace(original.path)
    assert (names(again), again.head().number, again.statistics().inodes) == ([b"b", b"c"], 0, 3)
    again.close()


def test_what_is_not_saved_has_no_shadow(original: Namespace) -> None:
    original.apply(SetAttributes(ROOT_INODE, uid=5))
    assert original.shadow() is None
    original.synced_connection()
    assert original.shadow() is None
    original.save(2)
    shadow_of(original).give_way()


def test_a_shadow_that_cannot_be_made_leaves_nothing_open(
    original: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Connection] = []

    def open_one(file: NamespaceFile) -> Connection:
        if opened:
            raise TransientError("too many open files")
        opened.append(open_beside(file))
        return opened[0]

    open_beside = NamespaceFile.open_beside
    monkeypatch.setattr(NamespaceFile, "open_beside", open_one)
    with pytest.raises(TransientError, match="too many"):
        original.shadow()
    with pytest.raises(apsw.ConnectionClosedError):
        opened[0].execute("SELECT 1")
    monkeypatch.undo()
    shadow_of(original).give_way()


@pytest.mark.parametrize("is_beside", [False, True])
@pytest.mark.parametrize("limit", [-1, 0, 1, 3, 4, 9])
def test_a_listing_by_name_has_as_many_as_are_asked_for(
    original: Namespace, limit: int, is_beside: bool
) -> None:
    """All, if the limit is negative: the last of them was left out."""
    if is_beside:
        assert original.shadow() is not None
    for name in (b"d", b"b", b"c"):
        original.apply(create(original, name))
    expected = [b"a", b"b", b"c", b"d"]
    found = original.entries_by_name(ROOT_INODE, b"", b"\xff", limit)
    assert [row.name for row in found] == (expected if limit < 0 else expected[:limit])


def test_names_that_change_beside_a_shadow_are_listed_and_end_nothing(original: Namespace) -> None:
    for name in (b"e", b"c", b"d"):
        original.apply(create(original, name))
    original.save(2)
    shadow = shadow_of(original)
    shadow.run(lambda: shadow.namespace.undo(0))
    inode = {name: original.entry(ROOT_INODE, name) for name in (b"a", b"c")}
    assert inode[b"a"] is not None
    assert inode[b"c"] is not None
    original.apply(Unlink(ROOT_INODE, b"c", inode[b"c"].inode, 2))
    original.apply(create(original, b"b"))
    original.apply(Rename(ROOT_INODE, b"a", ROOT_INODE, b"f", inode[b"a"].inode, 0, False, 2))
    assert names(original) == [b"e", b"d", b"b", b"f"]
    found, cookie = [], 0
    while page := original.entries(ROOT_INODE, cookie, 1):
        found += [row.name for row in page]
        cookie = page[-1].cookie
    assert found == names(original)
    by_name = original.entries_by_name(ROOT_INODE, b"b", b"f", 2)
    assert [row.name for row in by_name] == [b"b", b"d"]
    assert shadow.is_there
    assert names(shadow.before) == [b"a", b"e", b"c", b"d"]
    original.save(3)
    with pytest.raises(DisplacedError):
        shadow.check()
    assert names(original) == [b"e", b"d", b"b", b"f"]


def test_a_number_is_given_once(original: Namespace) -> None:
    shadow = original.shadow(2)
    assert shadow is not None
    given = [original.allocate_inode(), original.allocate_inode()]
    shadow.namespace.apply(create(shadow.namespace, b"b"))
    made = shadow.namespace.entry(ROOT_INODE, b"b")
    assert made is not None
    original.take_place(shadow)
    assert len({*given, made.inode, original.allocate_inode()}) == 4


def test_an_original_that_is_written_ends_its_shadow(original: Namespace) -> None:
    shadow = shadow_of(original)
    shadow.run(lambda: shadow.namespace.undo(0))
    original.apply(Pin(b"p", 1))
    assert not shadow.is_there
    with pytest.raises(DisplacedError):
        shadow.run(lambda: None)
    original.save(2)
    assert original.points.pins() == {b"p": 1}


def test_it_ends_while_a_thread_is_at_it(original: Namespace) -> None:
    shadow, begun, ended = shadow_of(original), threading.Event(), list[bool]()

    def work() -> None:
        shadow.namespace.undo(0)
        begun.set()
        while True:
            shadow.check()

    def run() -> None:
        with pytest.raises(DisplacedError):
            shadow.run(work)
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(PATIENCE)
    original.apply(Pin(b"p", 1))
    thread.join(PATIENCE)
    assert ended == [True]
    assert original.points.pins() == {b"p": 1}


LONG = (
    "WITH RECURSIVE n(x) AS (SELECT begun() UNION ALL SELECT x + 1 FROM n LIMIT 5000000) SELECT max(x) FROM n"
)
"""Some seconds."""


@pytest.mark.parametrize("is_before", [False, True])
def test_it_ends_while_a_thread_reads_it_or_what_was_before(original: Namespace, is_before: bool) -> None:
    """Regression: what the thread read of the state before was waited for."""
    shadow, begun, ended = shadow_of(original), threading.Event(), list[bool]()

    def note(*_: object) -> int:
        begun.set()
        return 0

    connection = (shadow.before if is_before else shadow.namespace).synced_connection()
    connection.create_scalar_function("begun", note, 0)

    def run() -> None:
        with pytest.raises(DisplacedError):
            shadow.run(lambda: connection.execute(LONG).fetchall())
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(PATIENCE)
    original.apply(Pin(b"p", 1))
    thread.join(PATIENCE)
    assert ended == [True]
