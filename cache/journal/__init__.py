"""Changes that were accepted and are not published: the journal, the dirty files, the ledger of both."""

from cache.journal.custody import Custody
from cache.journal.dirty import DirtyFile, DirtyFiles, Layer, replace_data
from cache.journal.journal import SEGMENT_SIZE, Journal
from cache.journal.ledger import LARGE_WRITE, Ledger
from cache.journal.local_room import reserve
from cache.journal.pieces import Data, Hole, Piece, Stored
from cache.journal.rebasing import Rebasing, rebase, show_published, sync_rebase
from cache.journal.recovery import JournalRecovery
from cache.journal.room import LITTLE, Need
from cache.journal.scan import PendingCommit
from cache.journal.segments import SUFFIX
from cache.journal.trimming import FEW, SMALLEST_SEGMENT, Trimming

__all__ = [
    "FEW",
    "LARGE_WRITE",
    "LITTLE",
    "SEGMENT_SIZE",
    "SMALLEST_SEGMENT",
    "SUFFIX",
    "Custody",
    "Data",
    "DirtyFile",
    "DirtyFiles",
    "Hole",
    "Journal",
    "JournalRecovery",
    "Layer",
    "Ledger",
    "Need",
    "PendingCommit",
    "Piece",
    "Rebasing",
    "Stored",
    "Trimming",
    "rebase",
    "replace_data",
    "reserve",
    "show_published",
    "sync_rebase",
]
