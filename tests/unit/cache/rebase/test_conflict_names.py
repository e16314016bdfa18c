"""Names of conflict copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.rebase.conflict_names import conflict_name, is_read_by_ending

DAY = 1_795_824_000 * 10**9
SUFFIX = b" (conflict 2026-11-28 laptop)"


def name(of: bytes, *taken: bytes, host: bytes = b"laptop", is_last: bool = False) -> bytes:
    return conflict_name(of, host, DAY, is_last=is_last, is_taken=set(taken).__contains__)


@pytest.mark.parametrize(
    ("of", "copy"),
    [
        (b"report.odt", b"report" + SUFFIX + b".odt"),
        (b"report", b"report" + SUFFIX),
        (b".profile", b".profile" + SUFFIX),
        (b"a.tar.gz", b"a.tar" + SUFFIX + b".gz"),
        (b"report (conflict 2025-01-02 desk).odt", b"report" + SUFFIX + b".odt"),
        (b"report (conflict 2025-01-02 desk) 7.odt", b"report" + SUFFIX + b".odt"),
    ],
)
def test_the_suffix_comes_before_the_ending(of: bytes, copy: bytes) -> None:
    assert name(of) == copy


def test_a_number_follows_where_the_name_is_taken() -> None:
    first = name(b"a.b")
    second = name(b"a.b", first)
    assert second == b"a" + SUFFIX + b" 2.b"
    assert name(b"a.b", first, second) == b"a" + SUFFIX + b" 3.b"


def test_the_suffix_is_last_where_endings_are_read() -> None:
    assert name(b"run.sh", is_last=True) == b"run.sh" + SUFFIX
    assert is_read_by_ending(b"", 0o755)
    assert is_read_by_ending(b".config", 0o644)
    assert is_read_by_ending(b"conf.d", 0o644)
    assert not is_read_by_ending(b"texts", 0o644)


def test_a_host_may_be_called_anything() -> None:
    assert name(b"a", host=b"my (old)/box\0") == b"a (conflict 2026-11-28 my _old__box_)"


@given(st.binary(min_size=1, max_size=255).filter(lambda n: b"/" not in n and b"\0" not in n), st.booleans())
def test_a_copy_of_any_name_has_a_name_that_may_be(of: bytes, is_last: bool) -> None:
    taken = {name(of, is_last=is_last)}
    found = name(of, *taken, is_last=is_last)
    assert 0 < len(found) <= 255
    assert found not in taken | {of}
    assert b"/" not in found
    assert b"\0" not in found


@given(st.text(alphabet="aäß漢😀", min_size=60, max_size=85))
def test_a_name_is_cut_at_a_character(text: str) -> None:
    of = text.encode()[:255].decode(errors="ignore").encode()
    name(of).decode()
