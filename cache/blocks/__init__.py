"""Files' bytes and blocks: cutting, compressing, sealing, caching, reading."""

from cache.blocks.block_cache import BlockCache, fetch_right
from cache.blocks.block_codec import BlockCodec
from cache.blocks.chunking import Chunker
from cache.blocks.compression import compress, decompress_exactly
from cache.blocks.content import Content
from cache.blocks.sealer import AHEAD, Sealer
from cache.blocks.small_files import SmallFiles

__all__ = [
    "AHEAD",
    "BlockCache",
    "BlockCodec",
    "Chunker",
    "Content",
    "Sealer",
    "SmallFiles",
    "compress",
    "decompress_exactly",
    "fetch_right",
]
