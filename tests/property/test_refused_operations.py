"""What the reducer refuses, and how: malformed is a matter of the operation, out of date one of the state.

The operations are all that the decoder lets through, fitting or not: whoever has the drive's keys can write
them into the log, and no state may take harm by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, example, find, given, settings
from hypothesis import strategies as st

from cache.namespace.check import check_namespace
from cache.namespace.form import check_form
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    ROOT_INODE,
    AddDevice,
    Create,
    Delete,
    Forget,
    Link,
    NewEpoch,
    Operation,
    Pin,
    Release,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetExtents,
    SetRetention,
    SetWriter,
    SetXattr,
    Unlink,
    decode,
    encode,
)
from cache.namespace.refusals import MalformedError, OutOfDateError
from tests.property.any_operation import BLOCK, KINDS, OPERATIONS, of_kind

TABLES = (
    *("inode", "dentry", "xattr", "extent", "pin", "retention", "writer", "device", "device_sequence"),
    *("forgetting", "commits", "key_epoch"),
)
STATES: tuple[tuple[Operation, ...], ...] = (
    (),
    (
        Create(ROOT_INODE, b"f", 2, 0o100644, 0, 0, 0, b"", 1),
        SetExtents(2, 0, ((0, 9),), ((0, 9, BLOCK, 0),)),
        SetXattr(2, b"user.x", b"1", 1),
        Create(ROOT_INODE, b"d", 3, 0o40755, 0, 0, 0, b"", 1),
        Create(3, b"f", 4, 0o40755, 0, 0, 0, b"", 1),
        SetWriter(1, b"host"),
        AddDevice(1, BLOCK, b"host"),
        NewEpoch(1, b"k" * 60, b""),
    ),
    (
        Create(ROOT_INODE, b"d", 2, 0o40755, 0, 0, 0, b"", 1),
        Create(2, b"f", 3, 0o100644, 0, 0, 0, b"", 1),
        Link(3, ROOT_INODE, b"g", 2),
        Create(ROOT_INODE, b"h", 4, 0o100644, 0, 0, 0, b"", 1),
        Unlink(ROOT_INODE, b"h", 4, 2),
    ),
)


class Site:
    """A namespace in one of the states, in commit 2, with commit 1 recorded."""

    def __init__(self, path: Path, operations: Sequence[Operation]) -> None:
        self.namespace = Namespace(str(path))
        for operation in operations:
            self.namespace.apply(operation)
        self.namespace.record_commit(1, bytes(32), 1)
        self.namespace.begin_commit(2)

    def rows(self) -> list[Any]:
        connection = self.namespace.synced_connection()
        live = [list(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in TABLES]
        past = [list(connection.execute(f"SELECT * FROM past_{table} ORDER BY 1, 2")) for table in TABLES[:9]]
        return [live, past, self.namespace.statistics()]

    def verdict(self, operation: Operation, commit: int | None = None) -> str:
        """What the state says of it; one that refuses it is as it was, one that takes it keeps its rules."""
        before = self.rows()
        try:
            self.namespace.apply(operation, commit)
        except MalformedError:
            verdict = "malformed"
        except OutOfDateError:
            verdict = "out of date"
        else:
            self.namespace.save(0)
            assert check_namespace(self.namespace.path, published=False) == []
            return "taken"
        assert self.rows() == before
        return verdict


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    """One for each state. What is taken is taken back, so they serve all examples."""
    folder = tmp_path_factory.mktemp("sites")
    found = [Site(folder / f"{number}.db", state) for number, state in enumerate(STATES)]
    yield found
    for site in found:
        site.namespace.close()


def verdicts(sites: list[Site], operation: Operation) -> list[str]:
    """What each state says of the operation."""
    found = []
    for site in sites:
        found.append(site.verdict(operation))
        site.namespace.undo(1)
    return found


@given(operation=OPERATIONS)
@example(SetAttributes((1 << 64) - 1, mode=0))
@example(Rename(ROOT_INODE, b"f", (1 << 64) - 1, b"g", 2, 0, False, 1))
@example(SetExtents(2, 0, ((0, 9),), ((0, 9, "no block", 0),)))  # type: ignore[arg-type]
@example(SetExtents(2, 0, ((0.5, 9),), ()))  # type: ignore[arg-type]
@example(SetExtents(2, 0, (7,), ()))  # type: ignore[arg-type]
@example(Pin(b"p", (1 << 64) - 1))
@example(Forget(((0, 1 << 63),)))
@example(Release((b"short",)))
@example(SetRetention(-1, 0, 0, 0, 0))
@example(RenameLeavingWhiteout(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 0, 9, 0, 0, 1))
@example(Rename(ROOT_INODE, b"f", ROOT_INODE, b"d", 2, 0, True, 1))
@example(Delete(4))
@example(Create(ROOT_INODE, b"x", 9, 0o100644, 0, 0, 0, b"target", 1))
@example(Create(ROOT_INODE, b"x", 9, 0o40755, 0, 0, 0, b"target", 1))
@example(Create(ROOT_INODE, b"x", 9, 0o120777, 0, 0, 0, b"target", 1))
def test_malformed_is_a_matter_of_the_operation_alone(sites: list[Site], operation: Operation) -> None:
    assert decode(encode(operation)) == operation
    try:
        check_form(operation)
    except MalformedError:
        assert verdicts(sites, operation) == ["malformed"] * len(STATES)
    else:
        assert "malformed" not in verdicts(sites, operation)


@given(operation=st.sampled_from([each for state in STATES for each in state]))
def test_what_was_made_on_one_state_is_never_malformed_on_another(
    sites: list[Site], operation: Operation
) -> None:
    assert "malformed" not in verdicts(sites, operation)


@given(replaces=st.integers(0, 4), written=st.sets(st.integers(1, 3)))
def test_content_is_taken_only_on_what_it_was_made_on(replaces: int, written: set[int]) -> None:
    """A file whose content is of the commits `written`, one after the other."""
    with TemporaryDirectory() as folder:
        site = Site(Path(folder) / "namespace.db", [Create(ROOT_INODE, b"f", 2, 0o100644, 0, 0, 0, b"", 1)])
        before = 0
        for commit in sorted(written):
            site.namespace.begin_commit(commit + 1)
            site.namespace.apply(SetExtents(2, before, ((0, 9),), ((0, 9, BLOCK, 0),)))
            before = commit + 1
        site.namespace.begin_commit(5)
        verdict = site.verdict(SetExtents(2, replaces, ((0, 5),), ()))
        assert verdict == ("taken" if replaces == before else "out of date")
        site.namespace.close()


@given(written=st.integers(0, 4), commit=st.integers(1, 4), born=st.integers(1, 4))
def test_late_content_is_taken_only_by_an_inode_that_was_there(written: int, commit: int, born: int) -> None:
    """One that is refused leaves all as it is. `written`: the commit of the content before, 0: none."""
    with TemporaryDirectory() as folder:
        site = Site(Path(folder) / "namespace.db", [])
        for number in range(2, 6):
            site.namespace.begin_commit(number)
            if number == born + 1:
                site.namespace.apply(Create(ROOT_INODE, b"f", 2, 0o100644, 0, 0, 0, b"", 1))
            if number == written + 1 > born:
                site.namespace.apply(SetExtents(2, 0, ((0, 9),), ((0, 9, BLOCK, 0),)))
        before = written + 1 if written >= born else 0
        late = SetExtents(2, before, ((0, 5),), ((0, 5, BLOCK, 0),))
        verdict = site.verdict(late, commit + 1)
        assert verdict == ("taken" if commit >= born and commit + 1 >= before else "out of date")
        site.namespace.close()


def test_content_of_the_same_commit_counts(tmp_path: Path) -> None:
    site = Site(tmp_path / "namespace.db", STATES[1])
    content = SetExtents(2, 1, ((0, 9),), ())
    assert [site.verdict(content), site.verdict(content)] == ["taken", "out of date"]
    assert site.verdict(SetExtents(2, 2, ((0, 9),), ((0, 9, BLOCK, 0),))) == "taken"
    site.namespace.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_operation_that_is_taken_or_out_of_date(kind: type[Any]) -> None:
    """Else the property above would say nothing of it."""
    often = settings(max_examples=20_000, phases=[Phase.generate])
    assert is_formed(find(of_kind(kind), is_formed, settings=often, random=Random(1)))


def is_formed(operation: Operation) -> bool:
    """Whether the operation could be taken on some state."""
    try:
        check_form(operation)
    except MalformedError:
        return False
    return True
