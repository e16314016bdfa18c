"""Operations at random: all that the decoder lets through, fitting or not."""

from __future__ import annotations

from dataclasses import fields
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from typing import Any, get_args

from hypothesis import strategies as st

from cache.namespace.operations import Operation

KINDS: tuple[type[Any], ...] = get_args(Operation)
BLOCK = b"b" * 32
EDGES = [-(1 << 63), -(1 << 31) * 10**9 - 1, -1, 1 << 22, 1 << 32, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1]
NUMBERS = st.sampled_from([*range(6)] * 20 + EDGES)
NO_NAMES = [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256]
NAMES = st.sampled_from([b"f", b"g", b"d", b"h", b"user.x"] * 10 + NO_NAMES)
ITEMS = st.one_of(NUMBERS, st.sampled_from([BLOCK, b"short", None, 0.5, True, "text", ()]))
PARTS = st.one_of(
    st.tuples(NUMBERS, NUMBERS),
    st.tuples(NUMBERS, NUMBERS, st.just(BLOCK), NUMBERS),
    ITEMS,
    st.lists(ITEMS, max_size=5).map(tuple),
)
TYPES = (S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK)
MODES = st.one_of(st.sampled_from([type_ | 0o755 for type_ in TYPES]), NUMBERS)
TARGETS = st.sampled_from([b"", b"", b"target"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": NUMBERS,
    "bytes": NAMES,
    "bool": st.booleans(),
    "int | None": st.one_of(st.none(), NUMBERS),
}
SEALED = st.sampled_from([b"", b"k" * 60, b"short"])
NAMED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "mode": {"int": MODES, "int | None": st.one_of(st.none(), MODES)},
    "target": {"bytes": TARGETS},
    "wrapped": {"bytes": SEALED},
    "before": {"bytes": SEALED},
    "key": {"bytes": st.sampled_from([BLOCK, BLOCK, b"short"])},
}
"""Of fields whose values mean something."""


def of_kind(kind: type[Any]) -> st.SearchStrategy[Operation]:
    """Anything of that kind that the decoder lets through."""
    parts = st.lists(PARTS, max_size=3).map(tuple)
    values = [(NAMED.get(field.name, VALUES), str(field.type)) for field in fields(kind)]
    return st.builds(kind, *(found.get(type_, parts) for found, type_ in values))


OPERATIONS = st.sampled_from(KINDS).flatmap(of_kind)
