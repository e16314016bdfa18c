"""The upstream in this process."""

from backend.local.local_upstream import LocalUpstream

__all__ = ["LocalUpstream"]
