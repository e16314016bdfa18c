"""A status of a mount, as tests want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cache.messages import MountStatus, from_plain

Plain = Mapping[str, Any]

OK_NODE: Final[Plain] = {
    "name": "node0",
    "zone": "disk0",
    "state": "ok",
    "total": 2048,
    "free": 1024,
    "full": False,
}
CAPACITY: Final[Plain] = {
    "total": 8192,
    "free": 6000,
    "available": 4096,
    "storable": 5000,
    "storable_in_need": 5500,
    "limited_by": ["node2"],
}
STORE: Final[Plain] = {
    "blocks": 5,
    "block_bytes": 1 << 20,
    "packs": 1,
    "stored_bytes": 3 << 19,
    "pending_bytes": 1,
    "packs_to_repair": 2,
    "nodes": [
        OK_NODE,
        {"name": "node1", "zone": "disk0", "state": "node1: it is missing"},
        {
            "name": "node2",
            "zone": "disk0",
            "state": "ok",
            "total": 2048,
            "free": 64,
            "full": True,
            "allocates_ahead": False,
        },
    ],
    "capacity": CAPACITY,
    "takers": 5,
    "write_quorum": 5,
}
SCRUB: Final[Plain] = {
    "running": False,
    "finished_ns": 0,
    "fragments": 12,
    "by_size": 0,
    "bytes": 2048,
    "wrong": 1,
    "unanswered": 0,
    "copies": 30,
    "copies_wrong": 2,
}
NODE_CHANGE: Final[Plain] = {
    "running": True,
    "verb": "add",
    "step": "fragments",
    "done": 3,
    "total": 8,
    "said": ["/srv/drive: /disk6 is node6 (epoch 2)"],
    "problem": "",
}
AWAY: Final[Plain] = {"since_ns": 1_700_000_000_000_000_000, "reason": "no route"}
STATUS: Final[Plain] = {
    "read_only": False,
    "fenced": False,
    "problem": "",
    "journal_lost": False,
    "set_aside": 0,
    "notices": 0,
    "set_apart": [],
    "commit": 7,
    "published": False,
    "pending_commit": None,
    "commit_interval": 5.0,
    "away": None,
    "waiting": {"changes": 5, "bytes": 2048, "since_ns": 1_700_000_000_000_000_000},
    "open_operations": 3,
    "dirty_files": 2,
    "dirty_bytes": 2048,
    "journal_bytes": 4096,
    "journal_limit": 1 << 30,
    "files": 10,
    "directories": 3,
    "file_bytes": 1 << 20,
    "sealed_bytes": 1000,
    "new_bytes": 500,
    "new_stored_bytes": 100,
    "cache_bytes": 0,
    "cache_hits": 3,
    "cache_misses": 1,
    "node_change": None,
    "disk_cache": {"limit": 1 << 30, "bytes": 1 << 20, "hits": 6, "misses": 2},
    "keeping": {"folders": 1, "bytes": 1 << 20, "here": 1 << 19, "problem": ""},
    "scrub": None,
    "store": STORE,
    "versions_dir": ".versions",
    "folders": {},
}


def mount_status(**changes: object) -> MountStatus:
    """`STATUS` with these changes, which are plain values."""
    return from_plain(MountStatus, {**STATUS, **changes})
