"""Listings that go on by names that were kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from mountfs.open_folders import OpenFolder


def folder_with(cookies: Iterable[int]) -> OpenFolder:
    return OpenFolder(inode=1, end=1 << 40, rest=[(b"%d" % cookie, cookie) for cookie in cookies])


@given(st.sets(st.integers(0, 40)), st.integers(0, 45))
def test_it_goes_on_after_any_cookie(cookies: set[int], after: int) -> None:
    """Also after one that nobody has any more."""
    found = folder_with(sorted(cookies)).rest_after(after)
    assert [cookie for _, cookie in found] == sorted(each for each in cookies if each > after)


def test_a_listing_that_begins_is_by_no_kept_names() -> None:
    folder = folder_with(range(5))
    folder.begin(17)
    assert folder.rest is None
    assert not [*folder.rest_after(0)]


def test_a_few_names_cost_as_much_as_a_few() -> None:
    """A reply takes some dozens; a folder may have a million."""
    folder = folder_with(range(100_000))
    tracemalloc.start()
    try:
        assert next(folder.rest_after(7)) == (b"8", 8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000
