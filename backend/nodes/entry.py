"""The entry of a node in a file that lists nodes (`drive.toml`, `hub.toml`), as a table of TOML. Pure.

Spec: docs/format/drive_file.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backend.errors import UsageError
from backend.nodes.factory import place_at
from backend.nodes.place import NodePlace
from backend.system import THIS_MACHINE, Environment, TomlTable

MAX_NODES: Final = 1024
"""Entries of one file."""
CREDENTIALS: Final = "credentials"
SETTINGS: Final = "store"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as the file names it. `url` is a plain path, relative to the file's folder or absolute,
    or a URL with a scheme (`backend.nodes.factory`); `settings` is what the node's kind needs beside it,
    without any secret."""

    name: str
    url: str
    zone: str
    weight: float = 1.0
    votes: bool = True
    settings: Mapping[str, str | int] = field(default_factory=dict, hash=False)

    def place(self, folder: str, environment: Environment = THIS_MACHINE) -> NodePlace:
        """The node's place, as seen from there. No I/O."""
        return place_at(self.url, folder, self.settings, environment)


def encode_entry(node: NodeEntry) -> dict[str, object]:
    """The table."""
    table: dict[str, object] = {
        "name": node.name,
        "url": node.url,
        "zone": node.zone,
        "weight": float(node.weight),
        "votes": node.votes,
    }
    settings = dict(node.settings)
    if CREDENTIALS in settings:
        table[CREDENTIALS] = settings.pop(CREDENTIALS)
    return table | ({SETTINGS: settings} if settings else {})


def decode_entries(file: TomlTable) -> tuple[NodeEntry, ...]:
    """The entries of `nodes`: at least one, each with a name of its own."""
    nodes = tuple(map(_decode, file.tables("nodes", MAX_NODES)))
    if not nodes or len({node.name for node in nodes}) != len(nodes):
        raise file.wrong("nodes must be at least one, each with a name of its own")
    return nodes


def _decode(table: TomlTable) -> NodeEntry:
    table.only("name", "url", "zone", "weight", "votes", CREDENTIALS, SETTINGS)
    name, zone = table.text("name", 64), table.text("zone", 64)
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(zone):
        raise table.wrong("name and zone start with a letter or digit and have letters, digits, . _ - only")
    url, settings = table.text("url", 4096), _settings(table)
    try:
        place_at(url, "/", settings)
    except UsageError as error:
        raise table.wrong(str(error)) from None
    weight = table.get("weight", (int, float))
    if isinstance(weight, bool) or not math.isfinite(weight) or not 0 <= weight <= 1e15:
        raise table.wrong("weight must be a number that is not negative")
    return NodeEntry(name, url, zone, float(weight), table.get("votes", bool), settings)


def _settings(table: TomlTable) -> Mapping[str, str | int]:
    """The place checks their values."""
    found: dict[str, Any] = table.get(SETTINGS, dict) if SETTINGS in table else {}
    if CREDENTIALS in found or not all(type(value) in (str, int) for value in found.values()):
        raise table.wrong(f"{SETTINGS} must have texts and whole numbers, and no {CREDENTIALS}")
    named = {CREDENTIALS: table.text(CREDENTIALS, 4096)} if CREDENTIALS in table else {}
    return found | named
