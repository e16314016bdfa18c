"""Nodes: where fragments and small objects are kept, and the wrappers around them."""

from backend.nodes.address import is_folder
from backend.nodes.address import stored as stored_url
from backend.nodes.directory import OWN_FILES, DirectoryNode
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.entry import MAX_NODES, NodeEntry, decode_entries, encode_entry
from backend.nodes.factory import place_at
from backend.nodes.health import NodeHealth
from backend.nodes.identity import (
    IDENTITY_FILE,
    MAX_FILE_SIZE,
    NodeIdentity,
    encode_identity,
    initialise_directory_node,
    read_identity,
)
from backend.nodes.leased import LeasedNode
from backend.nodes.listing import all_keys, pages
from backend.nodes.node import PAGE, UNKNOWN_SPACE, Node, ObjectState, Space
from backend.nodes.node_set import NodeSet
from backend.nodes.patient import PatientNode
from backend.nodes.place import NodePlace, Whereabouts
from backend.nodes.rate_limited import RateLimitedNode, TokenBucket
from backend.nodes.retry import RetryNode
from backend.nodes.speed import NodeSpeed

__all__ = [
    "IDENTITY_FILE",
    "MAX_FILE_SIZE",
    "MAX_NODES",
    "OWN_FILES",
    "PAGE",
    "UNKNOWN_SPACE",
    "DirectoryNode",
    "DirectoryPlace",
    "LeasedNode",
    "Node",
    "NodeEntry",
    "NodeHealth",
    "NodeIdentity",
    "NodePlace",
    "NodeSet",
    "NodeSpeed",
    "ObjectState",
    "PatientNode",
    "RateLimitedNode",
    "RetryNode",
    "Space",
    "TokenBucket",
    "Whereabouts",
    "all_keys",
    "decode_entries",
    "encode_entry",
    "encode_identity",
    "initialise_directory_node",
    "is_folder",
    "pages",
    "place_at",
    "read_identity",
    "stored_url",
]
