"""The errors of a store, as its client tells them."""

from __future__ import annotations


class StoreError(Exception):
    """The store did not do it, or nobody knows whether it did; the message is what it said, in one line."""


class AbsentError(StoreError):
    """404: no such object, or no such bucket."""


class TakenError(StoreError):
    """409 or 412: a condition did not hold. With a 409 nothing need be there: who asks looks. To what asked
    under no condition: something is under way that excludes it."""


class RefusedError(StoreError):
    """401, 403 and the like: unknown, expired or wrong credentials, a wrong clock, or a missing right."""


class BusyError(StoreError):
    """429 or 503: it wants to be asked less."""
