"""Following the commit log, checking it by replaying it, telling doors of changes that others made."""

from cache.sync import check_log
from cache.sync.changes import (
    AttributesChanged,
    Broadcast,
    Change,
    ContentChanged,
    Listener,
    Missed,
    NameChanged,
    Replaced,
)
from cache.sync.check_log import LogReplay
from cache.sync.coherence import Coherence
from cache.sync.follower import Follower
from cache.sync.key_epochs import learn_ahead
from cache.sync.rebaser import CopiedStateError, Following, Rebaser

__all__ = [
    "AttributesChanged",
    "Broadcast",
    "Change",
    "Coherence",
    "ContentChanged",
    "CopiedStateError",
    "Follower",
    "Following",
    "Listener",
    "LogReplay",
    "Missed",
    "NameChanged",
    "Rebaser",
    "Replaced",
    "check_log",
    "learn_ahead",
]
