"""The metrics of a mount: one table, which docs/metrics.md shows; served as Prometheus text (format 0.0.4).

Each is a number of the status (`cache.messages.status`), named by where it stands there. A truth value is
1 or 0. What is not known is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from cache.messages import MountStatus

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "drivefs_"


@dataclass(frozen=True, slots=True)
class Metric:
    """`place`: the attributes that lead to it from the status. A counter only grows while the drive is
    mounted."""

    place: str
    kind: Literal["gauge", "counter"]
    unit: str
    meaning: str

    @property
    def name(self) -> str:
        return PREFIX + self.place.replace(".", "_")

    def value(self, status: MountStatus) -> float | None:
        """None if it is not known."""
        found: Any = status
        for name in self.place.split("."):
            found = None if found is None else getattr(found, name)
        return None if found is None else float(found)


METRICS: Final = (
    Metric("read_only", "gauge", "1 or 0", "whether the drive is open for reading only"),
    Metric(
        "fenced",
        "gauge",
        "1 or 0",
        "whether nothing more is stored from this mount: another took the drive over, or the log is damaged",
    ),
    Metric("journal_lost", "gauge", "1 or 0", "whether the journal's files are gone while they are in use"),
    Metric("published", "gauge", "1 or 0", "whether all that was accepted is in a commit on the nodes"),
    Metric("set_aside", "gauge", "sets", "changes of earlier mounts that are not in the drive"),
    Metric("notices", "gauge", "notices", "what this machine decided by itself within the last thirty days"),
    Metric("commit", "gauge", "number", "the newest commit of the drive"),
    Metric("pending_commit", "gauge", "number", "the commit that is being stored, if one is"),
    Metric("commit_interval", "gauge", "seconds", "a change is in a commit after so long, or a sync"),
    Metric("away.since_ns", "gauge", "nanoseconds", "since when the hub does not answer, since 1970"),
    Metric("waiting.changes", "gauge", "changes", "what was accepted here and is not published"),
    Metric("waiting.bytes", "gauge", "bytes", "what that takes"),
    Metric("waiting.since_ns", "gauge", "nanoseconds", "when the oldest of it was made, since 1970; or 0"),
    Metric("open_operations", "gauge", "operations", "changes of names and attributes for the next commit"),
    Metric("dirty_files", "gauge", "files", "files with content that is not stored yet"),
    Metric("dirty_bytes", "gauge", "bytes", "content that is not stored yet"),
    Metric("journal_bytes", "gauge", "bytes", "what the records of the journal take"),
    Metric("journal_limit", "gauge", "bytes", "what the journal may take, as its disk is now"),
    Metric("files", "gauge", "inodes", "inodes that are no folder"),
    Metric("directories", "gauge", "inodes", "folders"),
    Metric("file_bytes", "gauge", "bytes", "the sizes of all files together"),
    Metric("sealed_bytes", "counter", "bytes", "content cut into blocks since the drive was mounted"),
    Metric("new_bytes", "counter", "bytes", "of that, what was in no stored block before"),
    Metric("new_stored_bytes", "counter", "bytes", "what those blocks take, compressed and without parity"),
    Metric("cache_bytes", "gauge", "bytes", "content of blocks that is kept in memory"),
    Metric("cache_hits", "counter", "reads", "reads of a block that was in memory"),
    Metric("cache_misses", "counter", "reads", "reads of a block that was not"),
    Metric("disk_cache.limit", "gauge", "bytes", "what sealed blocks may take on this machine's disk"),
    Metric("disk_cache.bytes", "gauge", "bytes", "what they take there"),
    Metric("disk_cache.hits", "counter", "reads", "reads of the store that this disk answered"),
    Metric("disk_cache.misses", "counter", "reads", "reads of the store that went to the nodes"),
    Metric("keeping.folders", "gauge", "folders", "folders that are kept on this machine's disk"),
    Metric("keeping.bytes", "gauge", "bytes", "content of blocks that the files in them name"),
    Metric("keeping.here", "gauge", "bytes", "of that, what is on the disk"),
    Metric("scrub.running", "gauge", "1 or 0", "whether a scrub is under way"),
    Metric("scrub.finished_ns", "gauge", "nanoseconds", "when the last scrub ended, since 1970; or 0"),
    Metric("scrub.fragments", "gauge", "fragments", "fragments that this scrub, or the last one, looked at"),
    Metric("scrub.by_size", "gauge", "fragments", "of these, those of which only the size was asked"),
    Metric("scrub.bytes", "gauge", "bytes", "what it read"),
    Metric("scrub.wrong", "gauge", "fragments", "fragments that were wrong or missing, and are repaired"),
    Metric(
        "scrub.unanswered",
        "gauge",
        "reads",
        "fragments, and copies of commits and roots, that could not be read",
    ),
    Metric("scrub.copies", "gauge", "copies", "copies of commits and roots that it read"),
    Metric(
        "scrub.copies_wrong",
        "gauge",
        "copies",
        "of these, those that were damaged or missing, and are mended",
    ),
    Metric("node_change.running", "gauge", "1 or 0", "whether a change of the nodes is under way"),
    Metric("node_change.done", "gauge", "packs or commits", "what its present step has done"),
    Metric("node_change.total", "gauge", "packs or commits", "what that step has to do; or 0"),
    Metric("store.blocks", "gauge", "blocks", "blocks that are stored"),
    Metric("store.block_bytes", "gauge", "bytes", "what they take, without parity"),
    Metric("store.packs", "gauge", "packs", "packs that are stored"),
    Metric("store.stored_bytes", "gauge", "bytes", "what they take on the nodes, with parity"),
    Metric("store.pending_bytes", "gauge", "bytes", "blocks that are on the way to the nodes"),
    Metric("store.packs_to_repair", "gauge", "packs", "packs that lack redundancy"),
    Metric("store.data_share", "gauge", "share", "data bytes for each stored byte"),
    Metric("store.capacity.total", "gauge", "bytes", "what would fit on empty nodes with full redundancy"),
    Metric("store.capacity.free", "gauge", "bytes", "what still fits with full redundancy"),
    Metric("store.capacity.available", "gauge", "bytes", "of that, what is not the reserve"),
    Metric("store.capacity.storable", "gauge", "bytes", "what still fits with the least redundancy"),
    Metric("store.capacity.storable_in_need", "gauge", "bytes", "the same, with half of the reserve"),
    Metric("store.takers", "gauge", "nodes", "nodes that answer and take new data"),
    Metric("store.write_quorum", "gauge", "nodes", "nodes that it takes to store something"),
)
"""In the order of the status."""


def exposition(status: MountStatus) -> Iterator[str]:
    """The lines of each metric that is known."""
    for metric in METRICS:
        value = metric.value(status)
        if value is not None:
            yield f"# HELP {metric.name} {metric.meaning} ({metric.unit})\n"
            yield f"# TYPE {metric.name} {metric.kind}\n{metric.name} {value!r}\n"
