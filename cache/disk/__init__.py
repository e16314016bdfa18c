"""The disk cache: sealed blocks on this machine's disk, for drives whose nodes are far away."""

from cache.disk.block_folder import PARTS, BlockFolder
from cache.disk.cached_blocks import CachedBlocks
from cache.disk.disk_cache import DiskCache

__all__ = ["PARTS", "BlockFolder", "CachedBlocks", "DiskCache"]
