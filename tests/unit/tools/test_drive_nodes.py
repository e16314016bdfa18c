"""What follows from the kinds of a drive's nodes."""

from __future__ import annotations

import datetime

import pytest

from backend.cluster import DriveFile
from backend.nodes import NodeEntry
from tools.drive_nodes import commit_interval

FOLDER, STORE = "disk", "s3://bucket/prefix"


def drive_of(nodes: list[tuple[str, bool]]) -> DriveFile:
    """With nodes at these URLs, which vote or do not."""
    entries = tuple(
        NodeEntry(f"node{number}", url, "zone", votes=votes, settings=_settings(url))
        for number, (url, votes) in enumerate(nodes)
    )
    return DriveFile(bytes(16), "drive", "4+2", entries, 1, (), datetime.datetime.now(datetime.UTC))


def _settings(url: str) -> dict[str, str | int]:
    return {} if url == FOLDER else {"credentials": "anonymous"}


@pytest.mark.parametrize(
    ("nodes", "seconds"),
    [
        ([(FOLDER, True)] * 6, 5),
        ([(FOLDER, True)] * 5 + [(STORE, False)], 5),
        ([(FOLDER, True)] * 3 + [(STORE, False)] * 3, 5),
        ([(FOLDER, True)] * 3 + [(STORE, False)] * 4, 30),
        ([(FOLDER, True)] * 4 + [(STORE, True), (FOLDER, False)], 30),
        ([(STORE, True)] * 5 + [(STORE, False)], 30),
    ],
)
def test_commits_are_rarer_where_a_voter_or_most_nodes_cost(
    nodes: list[tuple[str, bool]], seconds: float
) -> None:
    assert commit_interval("/drive", drive_of(nodes)) == seconds
