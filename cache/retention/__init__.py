"""How long the past is kept, and giving back the space of blocks that nothing refers to."""

from cache.retention.collector import NeededBlocks
from cache.retention.lost_files import LostRange, lost_ranges, named_blocks, paths_of
from cache.retention.mass_deletion import MassDeletions, mass_deletion_pins
from cache.retention.retention import Policy
from cache.retention.retention_keeper import CollectionReport, RetentionKeeper, RetentionSchedule
from cache.retention.space import SpaceAccounting, Usage
from cache.retention.version_keeper import VersionKeeper

__all__ = [
    "CollectionReport",
    "LostRange",
    "MassDeletions",
    "NeededBlocks",
    "Policy",
    "RetentionKeeper",
    "RetentionSchedule",
    "SpaceAccounting",
    "Usage",
    "VersionKeeper",
    "lost_ranges",
    "mass_deletion_pins",
    "named_blocks",
    "paths_of",
]
