"""The calls on names, attributes and contents of the live tree."""

from cache.attributes import CHANGED, CLAIM
from cache.tree.access import LISTS
from cache.tree.content_claims import ContentClaims, ContentWatch
from cache.tree.durability import Durability
from cache.tree.file_contents import FileContents
from cache.tree.foreign_names import FOREIGN, is_text, noting_foreign
from cache.tree.inode_attributes import InodeAttributes
from cache.tree.inodes import BLOCK_SIZE, Inodes
from cache.tree.intake import Intake
from cache.tree.put_off import PutOff
from cache.tree.tree import Tree

__all__ = [
    "BLOCK_SIZE",
    "CHANGED",
    "CLAIM",
    "FOREIGN",
    "LISTS",
    "ContentClaims",
    "ContentWatch",
    "Durability",
    "FileContents",
    "InodeAttributes",
    "Inodes",
    "Intake",
    "PutOff",
    "Tree",
    "is_text",
    "noting_foreign",
]
