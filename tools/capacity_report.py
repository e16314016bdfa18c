"""The sentences of mkfs and doctor on nodes that are too small for the others, and on how many are needed.
Pure."""

from __future__ import annotations

from collections.abc import Mapping

from backend.cluster import DriveFile
from backend.coding import CapacityModel, Profile
from backend.nodes import Space
from tools.drive_nodes import cluster_map
from tools.quantities import format_size


def describe_limit(drive: DriveFile, spaces: Mapping[str, Space]) -> str | None:
    """One line if nodes are so much smaller than the others that they limit the drive. `spaces` of the nodes
    that are there, by name."""
    model = CapacityModel(cluster_map(drive), Profile.parse(drive.profile))
    found = model.capacity(spaces)
    if found is None or not found.limited_by:
        return None
    sizes = ", ".join(f"{name} ({format_size(spaces[name].total)})" for name in found.limited_by)
    verb = "are" if len(found.limited_by) > 1 else "is"
    return (
        f"{sizes} {verb} small for this drive: {format_size(found.total)} of data fit with all redundancy, "
        f"{format_size(model.even(spaces))} would on nodes of one size"
    )


def describe_needs(profile: Profile) -> str | None:
    """One line if it takes more nodes to store than to read, as with all profiles that may lose two."""
    if profile.m < 2:
        return None
    return (
        f"of {profile.total} nodes {profile.k} are enough to read everything, and {profile.write_quorum} to "
        "store something new: with fewer a mount keeps it in its journal"
    )
