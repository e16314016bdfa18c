"""From the journal into the commit log; snapshots of the namespace."""

from cache.publish.commit_building import (
    CommitIdentity,
    blocks_named,
    is_same_commit,
    sealed,
)
from cache.publish.commit_payload import open_operations
from cache.publish.cut_rule import Intervals
from cache.publish.growth import refuse_rollback, require_growth
from cache.publish.key_epochs import commit_key, next_epoch
from cache.publish.publisher import Publisher
from cache.publish.shared_exclusive_lock import SharedExclusiveLock
from cache.publish.snapshot_keeper import SnapshotKeeper, SnapshotSchedule
from cache.publish.snapshot_store import ROOT_NAME, SnapshotRoot, SnapshotStore
from cache.publish.store_watch import INTERVAL, StoreWatch
from cache.publish.waiting import waiting
from cache.publish.wake import Wake

__all__ = [
    "INTERVAL",
    "ROOT_NAME",
    "CommitIdentity",
    "Intervals",
    "Publisher",
    "SharedExclusiveLock",
    "SnapshotKeeper",
    "SnapshotRoot",
    "SnapshotSchedule",
    "SnapshotStore",
    "StoreWatch",
    "Wake",
    "blocks_named",
    "commit_key",
    "is_same_commit",
    "next_epoch",
    "open_operations",
    "refuse_rollback",
    "require_growth",
    "sealed",
    "waiting",
]
