"""A namespace that is rolled back is as one to which nothing was done."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st

from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, Create, Forget, Operation, SetAttributes
from cache.namespace.refusals import MalformedError, OutOfDateError
from tests.property.any_operation import OPERATIONS
from tests.property.test_refused_operations import STATES, Site

STEPS = st.lists(st.one_of(OPERATIONS, st.sampled_from(["record", "undo"])), max_size=12)
NEW = Create(ROOT_INODE, b"x", 5, 0o100644, 0, 0, 0, b"", 1)

CHANGE = SetAttributes(2, size=5)
FORGOTTEN: list[Operation | str] = ["record", "record", "record", Forget(((1, 3),)), "record"]


def do(namespace: Namespace, steps: list[Operation | str]) -> list[str]:
    """What becomes of each step: an operation, a record of the open commit, or an undo of it."""
    found = []
    for step in steps:
        try:
            if step == "undo":
                namespace.undo(namespace.head().number)
            elif step == "record":
                number = namespace.commit
                namespace.record_commit(number, bytes(32), number, 7)
                namespace.begin_commit(number + 1)
            elif not isinstance(step, str):
                namespace.apply(step)
        except (MalformedError, OutOfDateError) as error:
            found.append(str(error))
        else:
            found.append("done")
    return found


def look(site: Site) -> tuple[object, ...]:
    namespace = site.namespace
    return site.rows(), namespace.head(), namespace.last_commit_time(), namespace.commit, namespace.orphans()


@given(state=st.sampled_from(STATES), before=STEPS, meanwhile=STEPS, after=STEPS, saved=st.booleans())
@example(state=STATES[1], before=[], meanwhile=FORGOTTEN, after=["record"], saved=True)
@example(state=STATES[1], before=FORGOTTEN[:3], meanwhile=FORGOTTEN[3:4], after=["record"], saved=False)
@example(state=STATES[1], before=FORGOTTEN[:4], meanwhile=["record"], after=["record"], saved=True)
@example(state=STATES[1], before=[CHANGE], meanwhile=["undo", NEW, "record"], after=[NEW], saved=False)
def test_nothing_was_done(
    state: tuple[Operation, ...],
    before: list[Operation | str],
    meanwhile: list[Operation | str],
    after: list[Operation | str],
    *,
    saved: bool,
) -> None:
    with TemporaryDirectory() as folder:
        one, other = Site(Path(folder) / "one.db", state), Site(Path(folder) / "other.db", state)
        for site in (one, other):
            do(site.namespace, before)
            if saved:
                site.namespace.save(1)
        savepoint, number = one.namespace.savepoint(), one.namespace.allocate_inode()
        do(one.namespace, meanwhile)
        one.namespace.roll_back(savepoint)
        assert look(one) == look(other)
        assert one.namespace.allocate_inode() == other.namespace.allocate_inode() == number
        assert do(one.namespace, after) == do(other.namespace, after)
        assert look(one) == look(other)
        for site in (one, other):
            site.namespace.save(2)
            site.namespace.close()
