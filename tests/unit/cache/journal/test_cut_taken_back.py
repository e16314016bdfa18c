"""A cut that is taken back leaves the dirty files as if it had never been made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cache.journal.dirty import DirtyFiles, Layer
from cache.namespace.operations import Operation, Rename, SetAttributes, Unlink

INODES = (1, 2)
_inodes = st.sampled_from(INODES)
_ranges = st.tuples(st.integers(0, 60), st.integers(1, 30))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _inodes, _ranges),
        st.tuples(st.just("truncate"), _inodes, st.integers(0, 60)),
        st.tuples(st.just("set_times"), _inodes),
        st.tuples(st.just("settle"), _inodes),
        st.tuples(st.just("mtime"), _inodes),
        st.tuples(st.just("unlink"), _inodes),
        st.tuples(st.just("rename"), _inodes, _inodes),
    ),
    max_size=12,
)


def take(dirty: DirtyFiles, steps: Iterable[tuple[Any, ...]], begin: int) -> list[Operation]:
    """What the steps do, and the operations among them."""
    operations: list[Operation] = []
    for now, (kind, inode, *rest) in enumerate(steps, begin):
        position = now * 1000
        if kind == "write":
            dirty.write(inode, rest[0][0], rest[0][1], position, position + 10, now)
        elif kind == "truncate":
            dirty.truncate(inode, rest[0], position, now)
        elif kind == "set_times":
            dirty.set_times(inode, now, now)
        elif kind == "settle":
            dirty.settle(inode)
        elif kind == "mtime":
            operations.append(SetAttributes(inode, mtime_ns=now, ctime_ns=now))
        elif kind == "unlink":
            operations.append(Unlink(9, b"name", inode, now))
        else:
            operations.append(Rename(9, b"name", 9, b"new", inode, rest[0], False, now))
        if kind in ("mtime", "unlink", "rename"):
            dirty.observe(operations[-1])
    return operations


def described(layer: Layer | None) -> tuple[object, ...] | None:
    if layer is None:
        return None
    numbers = (layer.oldest, layer.size(7), layer.mtime_ns, layer.ctime_ns, layer.data_bytes, layer.writes)
    return (*numbers, layer.settled, list(layer.pieces))


def merged(files: DirtyFiles) -> dict[int, tuple[object, ...] | None]:
    assert files.frozen() == []
    return {inode: described(files.top(inode)) for inode in INODES}


@given(STEPS, STEPS, st.sets(_inodes))
async def test_nothing_is_left_of_it(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], taken: set[int]
) -> None:
    cut = DirtyFiles()
    take(cut, before, 1)
    chosen = [inode for inode, _ in cut.tops() if inode in taken]
    stated = [_stated(cut, inode) for inode in chosen]
    for inode in chosen:
        cut.freeze(inode)
    # What closes and sets times finds nothing dirty after a cut.
    later = [step for step in after if step[0] not in ("set_times", "settle")]
    plain = DirtyFiles()
    take(plain, [*before, *later], 1)
    cut.take_back(stated, take(cut, later, 1 + len(before)))
    assert merged(cut) == merged(plain)
    assert cut.open_writes == plain.open_writes


def _stated(dirty: DirtyFiles, inode: int) -> SetAttributes:
    """As the ledger does at a cut."""
    layer = dirty.top(inode)
    assert layer is not None
    stated = SetAttributes(inode, size=layer.size(7), mtime_ns=layer.mtime_ns, ctime_ns=layer.ctime_ns)
    dirty.observe(stated)
    return stated
