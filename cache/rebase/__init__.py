"""Rebase: net changes of a device, and what becomes of them on a state that others have changed."""

from cache.rebase.conflict_names import conflict_name, is_read_by_ending
from cache.rebase.net_changes import NetChanges, changes_since
from cache.rebase.placing import COPY_OF
from cache.rebase.plan import Decision, Row, Situation
from cache.rebase.resolve import Changed, Device, Resolved, resolve, take_up
from cache.rebase.views import NamespaceView

__all__ = [
    "COPY_OF",
    "Changed",
    "Decision",
    "Device",
    "NamespaceView",
    "NetChanges",
    "Resolved",
    "Row",
    "Situation",
    "changes_since",
    "conflict_name",
    "is_read_by_ending",
    "resolve",
    "take_up",
]
