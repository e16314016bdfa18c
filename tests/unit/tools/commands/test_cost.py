"""`drivefs doctor --cost`: what follows from a drive's layout, by hand, and what is said.

`tests/unit/tools/test_requests.py` holds it to what a store counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.care import SHARES
from backend.coding import ClusterMap, ClusterNode, Profile
from backend.errors import UsageError
from tests.small_drive import make_empty_drive
from tools.commands.cost import DAY, MONTH, Layout, Traffic, Use, stored_bytes, total, traffic
from tools.drivefs import drivefs

GIB = 1 << 30
STORES = [f"s3://bucket/place{number}" for number in range(6)]


def layout(far: int = 6, commit_interval: float = 30.0, lease_seconds: float = 120.0) -> Layout:
    """4+2 on six nodes, the last of which does not vote; the first so many in stores."""
    nodes = tuple(ClusterNode(str(number), str(number), votes=number < 5) for number in range(6))
    names = frozenset(str(number) for number in range(far))
    scrub = 14 * DAY
    return Layout(Profile.parse("4+2"), ClusterMap(1, nodes), names, commit_interval, lease_seconds, scrub)


def test_an_idle_month_by_hand() -> None:
    found = traffic(layout(), Use(0, 0), MONTH)
    assert (found["lease"].writes, found["lease"].reads) == (5 * 36 * 24 * 30, 5 * 36 * 24 * 30)
    assert found["commits"] == found["contents"] == found["scrub"] == Traffic()
    assert found["looking at the nodes"].reads == 6 * 120 * 24 * 30
    before = traffic(layout(lease_seconds=30.0), Use(0, 0), DAY)["lease"]
    assert before.writes == 43_200


def test_a_month_of_writing_by_hand() -> None:
    """Commits renew the lease; each has three copies, five confirmations and one small pack."""
    commits = MONTH / 30
    found = traffic(layout(), Use(0, GIB), MONTH)
    assert found["lease"] == Traffic()
    assert found["commits"].writes == commits * (3 + 5)
    assert found["contents"].writes == commits * 6
    assert found["contents"].sent == pytest.approx(30 * GIB * 1.5)
    seldom = traffic(layout(commit_interval=250.0), Use(0, GIB), MONTH)
    assert seldom["lease"].writes == MONTH / 250 * 2 * 5


def test_large_contents_are_packs_of_8_mib() -> None:
    """768 PUTs for each GiB."""
    found = traffic(layout(), Use(0, GIB * DAY / 30), 30.0)
    assert found["contents"].writes == 768


def test_what_is_stored_is_scrubbed_and_listed() -> None:
    found = traffic(layout(), Use(1024 * GIB, 0), 14 * DAY)
    assert stored_bytes(layout(), Use(1024 * GIB, 0)) == 1536 * GIB
    assert found["scrub"].received == pytest.approx(1536 * GIB / SHARES)
    assert found["scrub"].reads == 1024 * 128 * 6
    assert found["looking for debris"].lists == pytest.approx(14 * 1024 * 128 * 6 / 1000)


def test_folders_cost_nothing() -> None:
    assert total([*traffic(layout(far=0), Use(GIB, GIB), MONTH).values()]) == Traffic()
    half = traffic(layout(far=3), Use(0, GIB), MONTH)["contents"]
    assert half.writes * 2 == traffic(layout(), Use(0, GIB), MONTH)["contents"].writes


def test_the_report_for_urls(capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["--prices", "5,1,0,0"]
    assert drivefs(["doctor", "--cost", *STORES, "--idle", *prices]) == 0
    said = capsys.readouterr().out
    assert "profile 4+2, 6 nodes, 6 in object stores (5 vote); a commit every 30 s" in said
    assert "mounted all the time, 0 B stored, nothing written" in said
    lines = {line[:22].strip(): line[22:].split() for line in said.splitlines()}
    assert lines["lease"][:3] == ["129,600", "129,600", "0"]
    assert lines["all"][:3] == ["129,600", "648,000", "180"]
    assert "at these prices: 1,296.90 a month" in said
    assert drivefs(["doctor", "--cost", *STORES, "--stored", "1T", "--written", "10G/day"]) == 0
    said = capsys.readouterr().out
    assert "1.0 TiB stored, 10.0 GiB written a day, evenly" in said
    assert "stored there: 1.5 TiB" in said
    assert "prices" not in said


def test_the_report_for_a_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_empty_drive(tmp_path)
    capsys.readouterr()
    assert made.drivefs("doctor", "--cost", made.drive, "--written", "1G", "--commit-interval", "10s") == 0
    said = capsys.readouterr().out
    assert "0 in object stores (0 vote); a commit every 10 s while something is written" in said
    assert "all" in said


@pytest.mark.parametrize(
    "options",
    [
        ["--cost"],
        ["--idle", "."],
        ["--cost", "--idle", "--written", "1G", "."],
        ["--cost", "--prices", "1,2,3", "."],
        ["--cost", "--prices", "1,2,3,nan", "."],
        ["--cost", *STORES[:5]],
        ["--cost", "--profile", "2+1", "."],
        ["--cost", "--afr", "2", "."],
        ["--cost", "--durability", "."],
        ["one", "two"],
    ],
)
def test_what_is_no_question(options: list[str]) -> None:
    with pytest.raises(UsageError):
        drivefs(["doctor", *options])
