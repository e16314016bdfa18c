"""Services to doors beside files: the view of the past, history, space, health, clones, joins."""

from cache.services.calls import services_of
from cache.services.conflict_copy import copy_for_writer, make_conflict_copy
from cache.services.copying import Copying, Destination, Pace, free_pace
from cache.services.join import Join
from cache.services.lost_history import LostHistory, gone_of_unfinished, has_lost, require_whole
from cache.services.versions_view import Found, VersionsView
from cache.services.watch import Watch

__all__ = [
    "Copying",
    "Destination",
    "Found",
    "Join",
    "LostHistory",
    "Pace",
    "VersionsView",
    "Watch",
    "copy_for_writer",
    "free_pace",
    "gone_of_unfinished",
    "has_lost",
    "make_conflict_copy",
    "require_whole",
    "services_of",
]
