"""The upstream in this process."""

from backend.local.local_upstream import LocalUpstream
from backend.local.session_writer import SessionWriter

__all__ = ["LocalUpstream", "SessionWriter"]
