"""Names of moments: what they mean, what is none, and that a written one reads back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

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
        ("5min", Moment(NOW - 300 * SECOND, NOW - 300 * SECOND)),
        ("5m", Moment(NOW - 300 * SECOND, NOW - 300 * SECOND)),
        ("2026-11-20 19:46", Moment(TIME - 12 * SECOND, TIME + 48 * SECOND - 1)),
        ("2026-11-20 00:10", Moment(MIDNIGHT - DAY + 600 * SECOND, MIDNIGHT - DAY + 660 * SECOND - 1)),
        ("2026-11-20T1946", Moment(TIME - 12 * SECOND, TIME + 48 * SECOND - 1)),
        ("2026-11-20 19:46:12", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-20T194612", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-20 20:46:12 +0100", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-20T10:16:12-09:30", Moment(TIME, TIME + SECOND - 1, 1)),
        ("2026-11-21 01:16+05:30", Moment(TIME - 12 * SECOND, TIME + 48 * SECOND - 1)),
        ("today", Moment(MIDNIGHT, MIDNIGHT + DAY - 1)),
        ("now", Moment(0, 2**63 - 1)),
        ("latest", Moment(0, 2**63 - 1)),
    ],
)
def test_what_names_mean(name: str, moment: Moment) -> None:
    assert parse(name, NOW) == moment


@pytest.mark.parametrize(
    "name",
    [
        *("", "Now", "@", "@-1", "@1x", "@" + "9" * 19, "h", "-2h", "2y", "2 h", "9999999d", "999999w"),
        *("2026-13-01", "2026-02-30", "2026-1-1", "20261120", "0000-01-01", "2026-11-20 ", "٢٠٢٦-11-20"),
        *(
            "2026-11-20T1946123",
            "2026-11-20 24:00",
            "2026-11-20 19:60",
            "2026-11-20T244612Z",
            "2026-11-20T194661Z",
            "2026-11-20t194612z",
        ),
        *("2026-11-20T194612Z~0", "2026-11-20T194612Z~1", "2026-11-20T194612Z~02", "2026-11-20T194612Z~"),
        *(
            "2026-11-20T19",
            "2026-11-20  19:46",
            "2026-11-20 19:46~2",
            "2026-11-20 19:46 CET",
            "19:46",
            "5 min",
        ),
        *("2026-11-20 19:46+24:00", "2026-11-20 19:46+00:60", "2026-11-20 19:46+1", "1970-01-01 00:00+01:00"),
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


ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(DAY // SECOND, 253402214399),
    ZONES,
    st.sampled_from("T "),
    st.booleans(),
    st.sampled_from(["", " "]),
)
def test_a_time_in_any_zone_and_spelling_is_the_same(
    second: int, ahead: int, between: str, colons: bool, before_zone: str
) -> None:
    """What other programs print (`date`, `ls --full-time`, `drivefs log`) is understood."""
    there = datetime.fromtimestamp(second, timezone(timedelta(minutes=ahead)))
    hour = "%H:%M" if colons else "%H%M"
    zone = f"{'-' if ahead < 0 else '+'}{abs(ahead) // 60:02d}:{abs(ahead) % 60:02d}"
    zone = before_zone + (zone if colons else zone.replace(":", ""))
    date = f"{there.year:04d}{there:-%m-%d}{between}"
    seconds = f"{there:{hour}}{':' * colons}{there:%S}"
    assert parse(f"{date}{seconds}{zone}", NOW) == Moment(second * SECOND, (second + 1) * SECOND - 1, 1)
    minute = (second - second % 60) * SECOND
    assert parse(f"{date}{there:{hour}}{zone}", NOW) == Moment(minute, minute + 60 * SECOND - 1)


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
