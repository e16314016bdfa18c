"""Contents as people have them, for every suite that writes: what compresses well, badly and not at all.

A suite that writes only random bytes never sees a compressed block, and one that writes only zeros never
sees a cut. `content` is a pure function of kind, size and seed, so that a failure can be repeated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Literal, get_args

from hypothesis import strategies as st

Kind = Literal["text", "log", "json", "zeros", "half-compressible", "random"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

# fmt: off
_WORDS: Final = [
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they",
    "which", "one", "you", "were", "all", "her", "she", "there", "would", "their", "we", "him",
    "been", "has", "when", "who", "will", "no", "more",
]
# fmt: on


def content(kind: Kind, size: int, seed: int = 0) -> bytes:
    """`size` bytes of that kind; equal arguments give equal bytes, other seeds others (not zeros)."""
    return _KINDS[kind](size, random.Random(f"{kind} {seed}"))


def contents(*, max_size: int = 64 << 10, min_size: int = 0) -> st.SearchStrategy[bytes]:
    """Any kind, from `min_size` to `max_size` bytes; it shrinks towards little text."""
    sizes = st.one_of(
        st.integers(min_size, min(max_size, max(min_size, 100))), st.integers(min_size, max_size)
    )
    return st.builds(content, st.sampled_from(KINDS), sizes, st.integers(0, 1 << 16))


def _of_lines(line: Callable[[int, random.Random], str]) -> Callable[[int, random.Random], bytes]:
    def lines(source: random.Random) -> Iterator[bytes]:
        return (line(number, source).encode() + b"\n" for number in count())

    def made(size: int, source: random.Random) -> bytes:
        data = bytearray()
        for each in lines(source):
            if len(data) >= size:
                break
            data += each
        return bytes(data[:size])

    return made


def _sentence(_: int, source: random.Random) -> str:
    return " ".join(source.choices(_WORDS, k=source.randint(4, 16))).capitalize() + "."


def _log_line(number: int, source: random.Random) -> str:
    time = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
    took = source.randint(0, 999)
    return (
        f"2026-11-28T{time}Z host service[{source.randint(1, 32768)}]: request {number} served in {took} ms"
    )


def _json_line(number: int, source: random.Random) -> str:
    row = {
        "id": number,
        "name": source.choice(_WORDS),
        "score": source.random(),
        "tags": source.sample(_WORDS, 3),
    }
    return json.dumps(row)


def _half_compressible(size: int, source: random.Random) -> bytes:
    """Records of random bytes and of filling, as in databases and virtual machines' disks."""
    data = bytearray()
    while len(data) < size:
        data += source.randbytes(source.randint(1, 8192))
        data += bytes([source.randint(0, 255)]) * source.randint(1, 8192)
    return bytes(data[:size])


_KINDS: Final[dict[Kind, Callable[[int, random.Random], bytes]]] = {
    "text": _of_lines(_sentence),
    "log": _of_lines(_log_line),
    "json": _of_lines(_json_line),
    "zeros": lambda size, _: bytes(size),
    "half-compressible": _half_compressible,
    "random": lambda size, source: source.randbytes(size),
}
