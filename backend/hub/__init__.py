"""The hub: a server without keys that orders commits, keeps blocks, and wakes who waits."""

from backend.hub.app import Hub, app
from backend.hub.block_table import BlockTable
from backend.hub.commit_table import CommitTable
from backend.hub.database import Database
from backend.hub.directory import Directory
from backend.hub.heads import Heads
from backend.hub.migrations import migrate, require_current
from backend.hub.packing import HubBlocks

__all__ = [
    "BlockTable",
    "CommitTable",
    "Database",
    "Directory",
    "Heads",
    "Hub",
    "HubBlocks",
    "app",
    "migrate",
    "require_current",
]
