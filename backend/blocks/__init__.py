"""The block store: where blocks lie, which are being stored, which are being deleted."""

from backend.blocks.block_buffer import DEFAULT_TARGET, BlockBuffer, PendingPack
from backend.blocks.block_index import BlockIndex, BlockLocation
from backend.blocks.block_store import PackedBlockStore
from backend.blocks.index_pages import ids_of, statistics_of
from backend.blocks.pack_moves import PackMoves
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.blocks.write_authority import WriteAuthority

__all__ = [
    "DEFAULT_TARGET",
    "BlockBuffer",
    "BlockIndex",
    "BlockLocation",
    "PackMoves",
    "PackedBlockStore",
    "PendingPack",
    "SqliteBlockIndex",
    "WriteAuthority",
    "ids_of",
    "statistics_of",
]
