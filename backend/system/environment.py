"""The environment of a device: its disk, its clock, its random bytes, its failpoints.

Constructors are given it, from `tools.compose` downwards, so that two devices in one process share nothing
that one of them could lose. What is built without one belongs to this machine; so does all that tools do by
themselves. Time that only measures is the event loop's, whose clock the loop's runner chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from backend.system.durable import Durable


@dataclass(frozen=True, slots=True)
class Environment:
    """`disk`: all its files are on it, those of its directory nodes too."""

    disk: Durable = field(default_factory=Durable)


THIS_MACHINE: Final = Environment()
"""The real one."""
