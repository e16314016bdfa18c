"""Rebase: net changes of a device, and what becomes of them on a state that others have changed."""

from cache.rebase.conflict_mark import COPY_OF, Mark, decode_mark, encode_mark
from cache.rebase.conflict_names import conflict_name, is_read_by_ending
from cache.rebase.net_changes import NetChanges, changes_since
from cache.rebase.plan import Decision, Row, Situation
from cache.rebase.resolve import Changed, Device, Resolved, resolve, take_up, take_up_fork
from cache.rebase.tail import OvertakenError, Tail
from cache.rebase.units import COMPANIONS, base_of
from cache.rebase.versions import is_version, published_versions
from cache.rebase.views import NamespaceView

__all__ = [
    "COMPANIONS",
    "COPY_OF",
    "Changed",
    "Decision",
    "Device",
    "Mark",
    "NamespaceView",
    "NetChanges",
    "OvertakenError",
    "Resolved",
    "Row",
    "Situation",
    "Tail",
    "base_of",
    "changes_since",
    "conflict_name",
    "decode_mark",
    "encode_mark",
    "is_read_by_ending",
    "is_version",
    "published_versions",
    "resolve",
    "take_up",
    "take_up_fork",
]
