"""Numbers and times that clients say: what is none is refused, and is no fault of the door."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from gateway.s3.call import iso_time_ns
from gateway.s3.objects import S3Error
from gateway.s3.request import whole_number

SECOND = 1_000_000_000
MOMENT = int(datetime(2026, 11, 28, 10, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(("digits", "number"), [("0", 0), ("0012", 12), ("9" * 15, 10**15 - 1)])
def test_whole_numbers(digits: str, number: int) -> None:
    assert whole_number(digits) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", " 1", "1_0", "²", "٣", "9" * 16, "9" * 5000])
def test_what_is_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T10:00:00Z",
        "2026-11-28T10:00:00.5",
        "2026-11-28T12:00:00+02:00",
        "Sat, 28 Nov 2026 10:00:00 GMT",
        "Sat, 28 Nov 2026 10:00:00",
    ],
)
def test_a_time_is_the_same_wherever_the_door_is(
    monkeypatch: pytest.MonkeyPatch, zone: str, text: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert iso_time_ns(text) == MOMENT
        assert iso_time_ns("0001-01-01T00:00:00") < 0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30T00:00:00Z"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(S3Error):
        iso_time_ns(text)
