"""The upstream in this process."""

from backend.local.gate import Gate
from backend.local.local_upstream import LocalUpstream
from backend.local.running_nodes import Members, RunningNodes
from backend.local.session_writer import SessionWriter

__all__ = ["Gate", "LocalUpstream", "Members", "RunningNodes", "SessionWriter"]
