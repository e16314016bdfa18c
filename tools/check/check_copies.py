"""The copies of the drive file, as a check looks at them and mends them."""

from __future__ import annotations

from backend.cluster import DriveFile, Survey, check_nodes, cluster_change, drive_file_copies
from backend.findings import Finding
from backend.nodes import NodePlace


def check_copies(folder: str, file: DriveFile, *, mend: bool) -> list[Finding]:
    """The faults of the copies of `file`. To `mend` them the lease on its voters is needed: a drive.toml
    that is older than the nodes' gets none, and is put over no newer one. `ConflictError` if most copies say
    something else by now. Blocks."""
    seen = cluster_change.require_unchanged(folder, file)
    return [
        _judged(place, text, seen, mend=mend) for place, text in seen.wrong if _is_ours(folder, place, file)
    ]


def _judged(place: NodePlace, text: str, seen: Survey, *, mend: bool) -> Finding:
    try:
        is_mended = mend and drive_file_copies.mend_copy(place, seen)
    except OSError as error:
        return Finding("left", f"{place} {text}, and it could not be written: {error.strerror}")
    return Finding("mended" if is_mended else "left", f"{place} {text}")


def _is_ours(folder: str, place: NodePlace, file: DriveFile) -> bool:
    """A node's folder that holds nothing is a disk that is not mounted: it gets no file."""
    return place.folder == folder or check_nodes.is_node(place, file)
