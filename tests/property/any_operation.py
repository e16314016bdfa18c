"""Operations at random: all that the decoder lets through, fitting or not."""

from __future__ import annotations

from dataclasses import fields
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
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": NUMBERS,
    "bytes": NAMES,
    "bool": st.booleans(),
    "int | None": st.one_of(st.none(), NUMBERS),
}


def of_kind(kind: type[Any]) -> st.SearchStrategy[Operation]:
    """Anything of that kind that the decoder lets through."""
    parts = st.lists(PARTS, max_size=3).map(tuple)
    return st.builds(kind, *(VALUES.get(str(field.type), parts) for field in fields(kind)))


OPERATIONS = st.sampled_from(KINDS).flatmap(of_kind)
