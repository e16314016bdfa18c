"""Which disk a folder is on. Functions here block on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SYSTEM: Final = Path("/sys")


def disks_of(path: str, system: Path = SYSTEM) -> frozenset[str]:
    """The whole disks that the folder needs: below partitions, logical volumes, RAID and loop devices, as
    sysfs(5) has them. Where the kernel names none (btrfs, overlay, network), the file system itself stands
    for it. `OSError` if the folder is not there."""
    device = os.stat(path).st_dev
    found = disks_below(system / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}", system)
    return found or frozenset({f"file system {os.major(device)}:{os.minor(device)}"})


def groups(disks: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """The names that have a disk in common, directly or through others: they fail together."""
    found: list[tuple[set[str], list[str]]] = []
    for name, needed in disks.items():
        joined = [group for group in found if group[0] & needed]
        found = [group for group in found if not group[0] & needed]
        names = [each for group in joined for each in group[1]]
        found.append((set(needed).union(*(group[0] for group in joined)), [*names, name]))
    return [names for _, names in found]


def disks_below(device: Path, system: Path) -> frozenset[str]:
    """The disks that a device is made of, by the links below `system` (sysfs(5)); none if it is not there."""
    if not device.exists():
        return frozenset()
    device = device.resolve()
    if (device / "partition").exists():
        device = device.parent
    parts = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    if parts:
        return frozenset().union(*(disks_below(part, system) for part in parts))
    image = device / "loop" / "backing_file"
    if image.exists() and os.path.exists(image.read_text().strip()):
        return disks_of(image.read_text().strip(), system)
    return frozenset({device.name})
