"""Nodes on the command line: a path, or a URL with the node's settings behind `?`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from backend.nodes import NodePlace, is_folder, place_at

DEFAULT_PROFILE: Final = "4+2"
"""Of a drive that is made."""
CREDENTIALS_HELP: Final = (
    "where the credentials of nodes with a URL are: profile:NAME, file:PATH, env:PREFIX, command:NAME, "
    "instance or anonymous; of one node: URL?credentials=..."
)


def given_places(urls: Sequence[str], credentials: str | None) -> list[NodePlace]:
    """The places of the nodes to be. `credentials` are those of URLs that do not say it; folders need none.
    `UsageError`."""
    return [_place(url, credentials) for url in urls]


def _place(url: str, credentials: str | None) -> NodePlace:
    settings = {} if credentials is None or is_folder(url) else {"credentials": credentials}
    return place_at(url, os.getcwd(), settings)
