"""The nodes that a drive may move to from its hub."""

from __future__ import annotations

import datetime

import pytest

from backend.cluster import DriveFile
from backend.errors import UsageError
from tools.hub.moving_back import require_coming

ID = bytes(range(16))
SOURCE = "https://hub.example.org/photos"


def _file(moved: str) -> DriveFile:
    return DriveFile(ID, "drive", "2+1", (), 1, (), datetime.datetime.now(datetime.UTC), moved)


@pytest.mark.parametrize("moved", [SOURCE, "https://hub.example.org/named%20so%20before"])
def test_nodes_of_a_drive_that_is_at_the_hub_take_it(moved: str) -> None:
    require_coming("/drive", _file(moved), ID, SOURCE)


@pytest.mark.parametrize(
    ("moved", "said"), [("", "is here already"), ("https://other.example.org/photos", "is at https://other")]
)
def test_nodes_of_a_drive_that_is_elsewhere_do_not(moved: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        require_coming("/drive", _file(moved), ID, SOURCE)


def test_nodes_of_another_drive_do_not() -> None:
    with pytest.raises(UsageError, match="another drive"):
        require_coming("/drive", _file(SOURCE), bytes(16), SOURCE)
