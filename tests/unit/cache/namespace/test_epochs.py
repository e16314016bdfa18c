"""cache.namespace.epochs: numbered without a gap, taken back with their commit, as of any commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.upstream import KeyEpoch
from cache.namespace.namespace import Namespace
from cache.namespace.operations import NewEpoch
from cache.namespace.refusals import OutOfDateError
from cache.publish.snapshot import export, verify_hostile
from tests.key_rings import changed

ONE, TWO, THREE = (
    KeyEpoch(1, b"1" * 60, b""),
    KeyEpoch(2, b"2" * 60, b"b" * 60),
    KeyEpoch(3, b"3" * 60, b"c" * 60),
)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    """Epochs begin with commits 1 and 3; 4 is open."""
    made = Namespace(str(tmp_path / "namespace.db"))
    for number, epoch in ((1, ONE), (2, None), (3, TWO)):
        if epoch is not None:
            made.apply(NewEpoch(*epoch))
        made.record_commit(number, bytes([number]) * 32, number)
        made.begin_commit(number + 1)
    yield made
    made.close()


def test_they_are_there_from_their_commit_on(namespace: Namespace) -> None:
    epochs = namespace.epochs
    assert [epochs.as_of(commit) for commit in range(5)] == [None, ONE, ONE, TWO, TWO]
    assert (epochs.until(0), epochs.until(2), epochs.until(3)) == ([], [ONE], [ONE, TWO])
    namespace.apply(NewEpoch(*THREE))
    assert (epochs.newest(), epochs.as_of(3)) == (THREE, TWO)


@pytest.mark.parametrize("epoch", [changed(ONE, wrapped=b"x" * 60), TWO, changed(THREE, number=4)])
def test_one_that_is_not_the_next_is_out_of_date(namespace: Namespace, epoch: KeyEpoch) -> None:
    with pytest.raises(OutOfDateError, match="3 is next"):
        namespace.apply(NewEpoch(*epoch))
    assert namespace.epochs.newest() == TWO


def test_they_go_where_their_commit_is_taken_back(namespace: Namespace, tmp_path: Path) -> None:
    namespace.apply(NewEpoch(*THREE))
    namespace.undo(3)
    assert namespace.epochs.until(9) == [ONE, TWO]
    namespace.apply(NewEpoch(*changed(THREE, wrapped=b"4" * 60)))
    namespace.save(1)
    for commit, expected in ((3, [ONE, TWO]), (2, [ONE])):
        path = str(tmp_path / f"snapshot-{commit}")
        export(namespace.path, path, commit)
        verify_hostile(path)
        snapshot = Namespace(path, read_only=True)
        assert snapshot.epochs.until(9) == expected
        snapshot.close()
    savepoint = namespace.savepoint()
    namespace.undo(2)
    assert namespace.epochs.newest() == ONE
    namespace.roll_back(savepoint)
    assert len(namespace.epochs.until(9)) == 3
