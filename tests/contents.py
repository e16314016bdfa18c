"""Contents as people have them, for every suite that writes: what compresses well, badly and not at all.

A suite that writes only random bytes never sees a compressed block, and one that writes only zeros never
sees a cut. `content` is a pure function of kind, size and seed, so that a failure can be repeated.

Programs that tests start take content here too: hypothesis is imported only by who asks for a strategy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Kind = Literal["text", "log", "json", "zeros", "half-compressible", "random"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
STORED_KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind != "zeros")
"""those that make blocks: zeros are holes"""

_Maker = Callable[[int, random.Random], bytes]

# fmt: off
_WORDS: Final = [
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they",
    "which", "one", "you", "were", "all", "her", "she", "there", "would", "their", "we", "him",
    "been", "has", "when", "who", "will", "no", "more",
]
# fmt: on
_RESTS: Final = 5000


def content(kind: Kind, size: int, seed: int | str = 0) -> bytes:
    """`size` bytes of that kind; equal arguments give equal bytes. Other seeds give others (not zeros), from
    the first 64 bytes on."""
    return _KINDS[kind](size, random.Random(f"{kind} {seed}"))


def contents(*, max_size: int = 64 << 10, min_size: int = 0, seeds: int = 1 << 16) -> SearchStrategy[bytes]:
    """Any kind, from `min_size` to `max_size` bytes; it shrinks towards little text. Few `seeds` make equal
    contents likely, which are stored once."""
    from hypothesis import strategies as st

    sizes = st.one_of(
        st.integers(min_size, min(max_size, max(min_size, 100))), st.integers(min_size, max_size)
    )
    return st.builds(content, st.sampled_from(KINDS), sizes, st.integers(0, seeds))


class Parts:
    """Parts of contents of every kind, at most `longest` bytes each: for who writes thousands of them."""

    def __init__(self, longest: int, seed: int) -> None:
        self._wholes = [content(kind, longest + (64 << 10), seed) for kind in KINDS]

    def part(self, length: int, source: random.Random) -> bytes:
        """`length` bytes from somewhere in one of them."""
        whole = source.choice(self._wholes)
        start = source.randrange(len(whole) - length + 1)
        return whole[start : start + length]


def _of_lines(rest: Callable[[random.Random], str], line: Callable[[int, str], str]) -> _Maker:
    """Numbered lines. `rest` makes what follows the numbers. Some thousands of rests are made, once, as that
    takes most of the time; that of a content's first line is its own, so that short contents differ too."""

    @cache
    def rests() -> tuple[list[str], float]:
        """They, and their mean length."""
        source = random.Random(0)
        made = [rest(source) for _ in range(_RESTS)]
        return made, sum(map(len, made)) / _RESTS

    def made(size: int, source: random.Random) -> bytes:
        all_rests, length = rests()
        data, number = bytearray(line(0, rest(source)).encode()), 1
        while len(data) < size:
            few = source.choices(all_rests, k=min(int((size - len(data)) / length) + 1, _RESTS))
            data += "".join(map(line, range(number, number + len(few)), few)).encode()
            number += len(few)
        return bytes(data[:size])

    return made


def _sentence(source: random.Random) -> str:
    return " ".join(source.choices(_WORDS, k=source.randint(4, 16))).capitalize() + ".\n"


def _request(source: random.Random) -> str:
    return f"host service[{source.randint(1, 32768)}]: request served in {source.randint(0, 999)} ms\n"


def _log_line(number: int, rest: str) -> str:
    return f"2026-11-28T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z {rest}"


def _fields(source: random.Random) -> str:
    tags = source.sample(_WORDS, 3)
    return json.dumps({"name": source.choice(_WORDS), "score": source.random(), "tags": tags})[1:] + "\n"


def _half_compressible(size: int, source: random.Random) -> bytes:
    """Records of random bytes and of filling, as in databases and virtual machines' disks."""
    data = bytearray()
    while len(data) < size:
        data += source.randbytes(source.randint(1, 8192))
        data += bytes([source.randint(0, 255)]) * source.randint(1, 8192)
    return bytes(data[:size])


_KINDS: Final[dict[Kind, _Maker]] = {
    "text": _of_lines(_sentence, lambda _, sentence: sentence),
    "log": _of_lines(_request, _log_line),
    "json": _of_lines(_fields, lambda number, fields: f'{{"id": {number}, {fields}'),
    "zeros": lambda size, _: bytes(size),
    "half-compressible": _half_compressible,
    "random": lambda size, source: source.randbytes(size),
}
