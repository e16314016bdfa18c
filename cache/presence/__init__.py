"""The presences of a drive's devices: which files each has open for writing, or is uploading, now."""

from cache.presence.form import Activity, PresenceCodec, Present, sentence
from cache.presence.others import Others
from cache.presence.presence import Presence, Writing

__all__ = ["Activity", "Others", "Presence", "PresenceCodec", "Present", "Writing", "sentence"]
