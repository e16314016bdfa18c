"""From the URL of a node to its place: the one table of the kinds of nodes that there are.

EXTENSION POINT. A new kind of node is two classes and one line here (docs/extending.md has all steps):
1. a `Node` (`backend.nodes.node`), added to the kinds in `tests/contract/test_node.py`;
2. a `NodePlace` (`backend.nodes.place`), added to those in `tests/contract/test_node_place.py`;
3. its line in `SCHEMES`: what makes the place from the URL and its settings, after `address.parse` has
   refused secrets in the URL. Nothing above this module knows what kind a node is: mkfs, node add and
   replace, doctor, fsck and mounts ask the place or the node. What only a folder can have (links in the way,
   a disk of its own) they ask of `NodePlace.folder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from backend.errors import UsageError
from backend.nodes import address
from backend.nodes.address import Address
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.place import NodePlace
from backend.system import THIS_MACHINE, Environment

Settings = Mapping[str, str | int]
Maker = Callable[[Address, Settings, Environment], NodePlace]


def _directory(found: Address, settings: Settings, environment: Environment) -> NodePlace:
    if settings:
        raise UsageError(f"{found.path}: a folder has no {next(iter(settings))}")
    return DirectoryPlace(found.path, environment)


def _object_store(found: Address, settings: Settings, environment: Environment) -> NodePlace:
    # A drive of folders does not load what speaks to stores.
    from backend.nodes.object_store import location, place
    from backend.nodes.object_store import settings as store_settings

    where = location.parse(found)
    given = {**settings, **found.query}
    return place.ObjectStorePlace(where, store_settings.parse(given, where.url), given, environment)


SCHEMES: Final[Mapping[str, Maker]] = {
    "file": _directory,
    **{f"{service}{way}": _object_store for service in ("s3", "gs", "az") for way in ("", "+https", "+http")},
}


def place_at(
    url: str, base: str, settings: Settings | None = None, environment: Environment = THIS_MACHINE
) -> NodePlace:
    """The place that `url` names, a plain path being relative to the folder `base`; `settings` are those of
    `drive.toml`, what stands behind `?` in the URL counts more. No I/O. `UsageError` in words if it is no URL
    of a node, or of a kind that is unknown here."""
    found = address.parse(url, base)
    maker = SCHEMES.get(found.scheme)
    if maker is None:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(
            f"{address.shown(url)}: this drivefs knows no nodes at {found.scheme}://; "
            f"a node is at a plain path, or at {known}"
        )
    return maker(found, settings or {}, environment)
