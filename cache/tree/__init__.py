"""The calls on names and attributes of the live tree."""

from cache.tree.access import LISTS
from cache.tree.inodes import BLOCK_SIZE
from cache.tree.tree import Tree

__all__ = ["BLOCK_SIZE", "LISTS", "Tree"]
