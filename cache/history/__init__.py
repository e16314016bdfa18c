"""The past: what was, where, and what changed between."""

from cache.history.activity import Happened, PointActivity, activity
from cache.history.changed_paths import ChangedPath, ChangedPaths, changed_paths
from cache.history.deleted import Deleted, deleted_since
from cache.history.diff_and_log import LogEntry, differences, directory_of, log_of, split
from cache.history.marked import Marked, marked_files
from cache.history.past import PAST_BIT, PastTree, attributes_of
from cache.history.past_access import READ, SEARCH, Caller, Place
from cache.history.past_versions import PastVersion, past_versions

__all__ = [
    "PAST_BIT",
    "READ",
    "SEARCH",
    "Caller",
    "ChangedPath",
    "ChangedPaths",
    "Deleted",
    "Happened",
    "LogEntry",
    "Marked",
    "PastTree",
    "PastVersion",
    "Place",
    "PointActivity",
    "activity",
    "attributes_of",
    "changed_paths",
    "deleted_since",
    "differences",
    "directory_of",
    "log_of",
    "marked_files",
    "past_versions",
    "split",
]
