"""The contents that tests write are what their kinds say: green over others would say less."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from cache.blocks.compression import compress
from tests.contents import KINDS, STORED_KINDS, Kind, Parts, content, contents

ROOT: Final = Path(__file__).parents[2]
RATIOS: Final[dict[Kind, tuple[float, float]]] = {
    "text": (0.1, 0.5),
    "log": (0.05, 0.3),
    "json": (0.1, 0.5),
    "zeros": (0.0, 0.01),
    "half-compressible": (0.4, 0.6),
    "random": (1.0, 1.01),
}
"""compressed to uncompressed bytes, at least and at most"""
PIECE: Final = 4096
DISTINCT: Final = 64
"""bytes in which two seeds differ: lines begin with numbers"""
PARTS: Final = Parts(300, seed=1)


@given(st.sampled_from(KINDS), st.integers(0, 20_000), st.integers(0, 3))
def test_a_content_has_the_size_and_is_the_same_each_time(kind: Kind, size: int, seed: int) -> None:
    data = content(kind, size, seed)
    assert len(data) == size
    assert data == content(kind, size, seed)


def digests() -> str:
    """Of one content of each kind."""
    return " ".join(hashlib.sha256(content(kind, 300_000, "one")).hexdigest() for kind in KINDS)


def test_a_content_is_the_same_in_each_process() -> None:
    """A program that a test starts makes what the test expects, whatever it has made before."""
    code = (
        f"from {__name__} import KINDS, content, digests\n[content(kind, 9, 5) for kind in reversed(KINDS)]\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", f"{code}print(digests())"],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == digests()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_content_compresses_as_its_kind_says(kind: Kind, seed: int) -> None:
    for size in (64 << 10, 1 << 20):
        least, most = RATIOS[kind]
        assert least * size <= len(compress(content(kind, size, seed))) <= most * size


@pytest.mark.parametrize("kind", STORED_KINDS)
def test_other_seeds_give_other_contents_no_piece_of_which_comes_twice(kind: Kind) -> None:
    """Blocks of equal content are stored once: a suite would write less than it thinks."""
    wholes = [content(kind, 1 << 20, seed) for seed in range(3)]
    pieces = [whole[at : at + PIECE] for whole in wholes for at in range(0, len(whole), PIECE)]
    others = [piece for piece in pieces if len({*piece}) > 1]  # than filling
    assert len({*others}) == len(others) > 0.5 * len(pieces)
    shorts = [content(kind, DISTINCT, seed) for seed in range(100)]
    assert len({*shorts}) == len(shorts)


@given(st.integers(0, 20), st.integers(0, 200), st.data())
def test_contents_have_the_sizes_that_are_asked_for(least: int, more: int, data: st.DataObject) -> None:
    found = data.draw(contents(min_size=least, max_size=least + more))
    assert least <= len(found) <= least + more


def test_contents_shrink_towards_little_text() -> None:
    assert find(contents(), lambda found: len(found) > 20) == content("text", 21)


@given(st.integers(0, 300), st.randoms(use_true_random=False))
def test_a_part_has_the_length_that_is_asked_for(length: int, source: random.Random) -> None:
    assert len(PARTS.part(length, source)) == length
