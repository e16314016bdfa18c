"""The hub: a server without keys that orders commits, keeps blocks, and wakes who waits."""

from backend.hub.accounts import Accounts
from backend.hub.after_restore import AfterRestore
from backend.hub.app import Hub, app
from backend.hub.attempts import Attempts
from backend.hub.block_table import BlockTable
from backend.hub.checking import HubCheck
from backend.hub.commit_table import CommitTable
from backend.hub.compaction import HubCompaction
from backend.hub.database import Database
from backend.hub.database_age import DatabaseAge
from backend.hub.directory import Directory
from backend.hub.edge import Edge
from backend.hub.guarded_protocol import guarded
from backend.hub.heads import Heads
from backend.hub.housekeeping import Housekeeping
from backend.hub.hub_file import HubFile, Limits
from backend.hub.imports import Imports
from backend.hub.listening import listener_at
from backend.hub.metrics import HubMetrics
from backend.hub.migrations import migrate, migrate_database, migrate_empty, require_current
from backend.hub.operator import AccountSummary, Operator
from backend.hub.pack_table import PackTable
from backend.hub.packing import HubBlocks
from backend.hub.pepper import Pepper
from backend.hub.presence_table import PresenceTable
from backend.hub.presences import Presences
from backend.hub.quotas import Quotas
from backend.hub.readiness import Readiness
from backend.hub.request_rates import RequestRates
from backend.hub.stray_packs import StrayPacks, StrayPackTable
from backend.hub.thin_pack_table import ThinPackTable

__all__ = [
    "AccountSummary",
    "Accounts",
    "AfterRestore",
    "Attempts",
    "BlockTable",
    "CommitTable",
    "Database",
    "DatabaseAge",
    "Directory",
    "Edge",
    "Heads",
    "Housekeeping",
    "Hub",
    "HubBlocks",
    "HubCheck",
    "HubCompaction",
    "HubFile",
    "HubMetrics",
    "Imports",
    "Limits",
    "Operator",
    "PackTable",
    "Pepper",
    "PresenceTable",
    "Presences",
    "Quotas",
    "Readiness",
    "RequestRates",
    "StrayPackTable",
    "StrayPacks",
    "ThinPackTable",
    "app",
    "guarded",
    "listener_at",
    "migrate",
    "migrate_database",
    "migrate_empty",
    "require_current",
]
