"""The drive file and its nodes: checking them, adding and removing them, moving what they hold."""

from backend.cluster.check_nodes import Survey
from backend.cluster.cluster_change import HeldDrive, NotInUse, held, holding, require_surveyed
from backend.cluster.drive_file import MAX_SLOTS, DriveFile
from backend.cluster.object_rebalance import ObjectRebalance
from backend.cluster.rebalance import Rebalance, RebalanceReport, left_on

__all__ = [
    "MAX_SLOTS",
    "DriveFile",
    "HeldDrive",
    "NotInUse",
    "ObjectRebalance",
    "Rebalance",
    "RebalanceReport",
    "Survey",
    "held",
    "holding",
    "left_on",
    "require_surveyed",
]
