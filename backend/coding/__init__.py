"""Erasure codes, and which node holds which fragment."""

from backend.coding.capacity import CapacityModel
from backend.coding.erasure import ErasureCode, Profile, code_for
from backend.coding.node_status import ask_status
from backend.coding.placement import ClusterMap, ClusterNode, fill, place, require_nodes, settle, stand_ins
from backend.coding.voters import copies_of, first_voters, next_voter, voters

__all__ = [
    "CapacityModel",
    "ClusterMap",
    "ClusterNode",
    "ErasureCode",
    "Profile",
    "ask_status",
    "code_for",
    "copies_of",
    "fill",
    "first_voters",
    "next_voter",
    "place",
    "require_nodes",
    "settle",
    "stand_ins",
    "voters",
]
