"""The state folder: what this machine keeps of a drive and may not lose; what of it was set aside."""

from cache.local.device_file import DeviceFile, DeviceIdentity
from cache.local.local_state import (
    JOURNAL,
    LOCK_FILE,
    NAMESPACE_FILE,
    STALE,
    TIME_FORMAT,
    LocalState,
    locked,
    set_namespace_aside,
)
from cache.local.stale import SetAside, StaleState, Unstored, found, note_brought_in, restore

__all__ = [
    "JOURNAL",
    "LOCK_FILE",
    "NAMESPACE_FILE",
    "STALE",
    "TIME_FORMAT",
    "DeviceFile",
    "DeviceIdentity",
    "LocalState",
    "SetAside",
    "StaleState",
    "Unstored",
    "found",
    "locked",
    "note_brought_in",
    "restore",
    "set_namespace_aside",
]
