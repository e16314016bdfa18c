"""What is kept how long, and giving back what nothing refers to."""

from cache.retention.lost_files import LostRange, lost_ranges, named_blocks, paths_of
from cache.retention.retention import Policy
from cache.retention.retention_keeper import Collected, RetentionKeeper, RetentionSchedule
from cache.retention.space import Space, Usage

__all__ = [
    "Collected",
    "LostRange",
    "Policy",
    "RetentionKeeper",
    "RetentionSchedule",
    "Space",
    "Usage",
    "lost_ranges",
    "named_blocks",
    "paths_of",
]
