"""Nodes: where fragments and small objects are kept, and the wrappers around them."""

from backend.nodes.directory import DirectoryNode, space_of
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
from backend.nodes.metered import MeteredNode
from backend.nodes.node import Node, Space
from backend.nodes.rate_limited import RateLimitedNode, TokenBucket
from backend.nodes.retry import RetryNode

__all__ = [
    "IDENTITY_FILE",
    "MAX_FILE_SIZE",
    "DirectoryNode",
    "LeasedNode",
    "MeteredNode",
    "Node",
    "NodeHealth",
    "NodeIdentity",
    "RateLimitedNode",
    "RetryNode",
    "Space",
    "TokenBucket",
    "encode_identity",
    "initialise_directory_node",
    "read_identity",
    "space_of",
]
