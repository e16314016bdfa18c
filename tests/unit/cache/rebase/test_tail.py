"""The tail of a rebase: when it ends, when it is for another rebase (walks: `tests/sync/test_tails.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from stat import S_IFREG

import pytest

from cache.namespace import Namespace, Shadow
from cache.namespace.operations import ROOT_INODE, Create, SetAttributes, Unlink
from cache.rebase import COMPANIONS, Changed, OvertakenError, Tail

NOTHING = Changed(frozenset(), frozenset(), frozenset(), frozenset(), {})
MANY = 50


class Watched(Shadow[Namespace]):
    """One that counts its checks."""

    checks = 0

    def check(self) -> None:
        self.checks += 1
        super().check()


def create(namespace: Namespace, name: bytes) -> Create:
    return Create(ROOT_INODE, name, namespace.allocate_inode(), S_IFREG | 0o644, 0, 0, 0, b"", 1)


def names(ending: bytes) -> tuple[bytes, bytes]:
    """Those of a database, and of a file beside it."""
    database = b"db" + ending[1:]
    return database, database + ending


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Namespace]:
    """With databases, and each of the files that are kept beside one."""
    namespace = Namespace(str(tmp_path / "namespace.db"), device=1)
    for ending in COMPANIONS:
        for name in names(ending):
            namespace.apply(create(namespace, name))
    namespace.save(1)
    yield namespace
    namespace.close()


def watched(namespace: Namespace, apart: int = MANY) -> Watched:
    shadow = namespace.shadow(apart)
    assert shadow is not None
    return Watched(shadow.namespace, shadow.before, shadow.give_way, shadow.give_way, shadow.first_number)


def test_who_does_much_asks_often_whether_it_is_needed(original: Namespace) -> None:
    """Regression: who had to write the database waited for all of a tail."""
    shadow = watched(original)
    tail = Tail(shadow, NOTHING)
    assert shadow.checks >= len(COMPANIONS)
    before = shadow.checks
    tail.take([create(original, b"%d" % number) for number in range(MANY)], ())
    assert shadow.checks >= before + 2 * MANY
    before = shadow.checks
    tail.take((), range(ROOT_INODE, ROOT_INODE + MANY))
    assert shadow.checks >= before + MANY


def test_a_number_that_the_rebase_has_given_too_is_for_another_one(original: Namespace) -> None:
    """It was made for more changes than came."""
    shadow = watched(original, apart=1)
    shadow.namespace.apply(create(shadow.namespace, b"a copy"))
    tail = Tail(shadow, NOTHING)
    tail.take([create(original, b"first")], ())
    with pytest.raises(OvertakenError):
        tail.take([create(original, b"second")], ())


@pytest.mark.parametrize("ending", COMPANIONS)
@pytest.mark.parametrize("is_base", [False, True])
def test_what_is_written_beside_a_database_that_others_changed_is_for_another_rebase(
    original: Namespace, ending: bytes, is_base: bool
) -> None:
    """No operation of the tail says a name."""
    shadow = watched(original)
    found = [original.entry(ROOT_INODE, name) for name in names(ending)]
    inodes = [entry.inode for entry in found if entry is not None]
    shadow.namespace.apply(SetAttributes(inodes[is_base], mode=0o600))
    with pytest.raises(OvertakenError):
        Tail(shadow, NOTHING).take((), [inodes[not is_base]])


@pytest.mark.parametrize("ending", COMPANIONS)
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_database_beside_which_others_made_or_removed_a_file_is_for_another_rebase(
    original: Namespace, ending: bytes, is_removed: bool
) -> None:
    database, beside = names(ending)
    if not is_removed:
        database, beside = b"alone", b"alone" + ending
        original.apply(create(original, database))
        original.save(2)
    shadow, entry = watched(original), original.entry(ROOT_INODE, database)
    there = shadow.namespace.entry(ROOT_INODE, beside)
    made = create(shadow.namespace, beside)
    shadow.namespace.apply(made if there is None else Unlink(ROOT_INODE, beside, there.inode, 2))
    assert entry is not None
    with pytest.raises(OvertakenError):
        Tail(shadow, NOTHING).take((), [entry.inode])
