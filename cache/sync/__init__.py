"""Following the commit log: published commits applied to a namespace, and the log lived again to check it."""

from cache.sync import check_log
from cache.sync.check_log import LogReplay
from cache.sync.follower import Follower

__all__ = ["Follower", "LogReplay", "check_log"]
