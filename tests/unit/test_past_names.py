"""Names of moments: what they mean, what is none, and that a written one reads back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.past_names import DAY, SECOND, Moment, format_time, parse, version_name

NOW = int(datetime(2026, 11, 21, 12, 30, tzinfo=UTC).timestamp()) * SECOND + 5
TIME = int(datetime(2026, 11, 20, 19, 46, 12, tzinfo=UTC).timestamp()) * SECOND
MIDNIGHT = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("2026-11-20T194612Z", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-20T19:46:12Z", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-20T194612Z~2", Moment(TIME, TIME + SECOND - 1, 2)),
        ("2026-11-20T194612Z~31", Moment(TIME, TIME + SECOND - 1, 31)),
        ("2026-11-20", Moment(MIDNIGHT - DAY, MIDNIGHT - 1)),
        ("yesterday", Moment(MIDNIGHT - DAY, MIDNIGHT - 1)),
        ("2h", Moment(NOW - 7200 * SECOND, NOW - 7200 * SECOND)),
        ("3d", Moment(NOW - 3 * DAY, NOW - 3 * DAY)),
        ("1w", Moment(NOW - 7 * DAY, NOW - 7 * DAY)),
        ("@17", Moment(commit=17)),
    ],
)
def test_what_names_mean(name: str, moment: Moment) -> None:
    assert parse(name, NOW) == moment


@pytest.mark.parametrize(
    "name",
    [
        *("", "now", "@", "@-1", "@1x", "@" + "9" * 19, "h", "-2h", "2y", "2 h", "9999999d", "999999w"),
        *("2026-13-01", "2026-02-30", "2026-1-1", "20261120", "0000-01-01", "2026-11-20 ", "٢٠٢٦-11-20"),
        *("2026-11-20T194612", "2026-11-20T244612Z", "2026-11-20T194661Z", "2026-11-20t194612z"),
        *("2026-11-20T194612Z~0", "2026-11-20T194612Z~1", "2026-11-20T194612Z~02", "2026-11-20T194612Z~"),
        *("2026-11-20T194612Z.txt", "2026-11-20T194612Z\n", "../2h", "\udcff"),
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert parse(name, NOW) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 253402300799 * SECOND), st.integers(1, 999_999))
def test_a_written_time_reads_back(time_ns: int, ordinal: int) -> None:
    name = format_time(time_ns, ordinal)
    second = time_ns - time_ns % SECOND
    assert parse(name, NOW) == Moment(second, second + SECOND - 1, ordinal)
    assert ":" not in name
    assert len(name.partition("~")[0]) == 18


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_a_moment_or_none(text: str) -> None:
    moment = parse(text, NOW)
    assert moment is None or moment.commit is not None or moment.until_ns >= 0


def test_the_extension_comes_last() -> None:
    name = format_time(TIME, 2)
    assert version_name(name, b"letter.odt") == b"2026-11-20T194612Z~2.odt"
    assert version_name(name, b"a.tar.gz") == b"2026-11-20T194612Z~2.gz"
    assert version_name(name, b".profile") == b"2026-11-20T194612Z~2"
    assert version_name(name, b"\xff.\xfe") == b"2026-11-20T194612Z~2.\xfe"
    assert version_name(name, b"x." + b"y" * 250) == b"2026-11-20T194612Z~2"
