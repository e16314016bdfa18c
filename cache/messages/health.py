"""The calls that look after a mounted drive: `drivefs check`, `scrub`, `repair`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backend.health import Repaired, ScrubStatus
from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class Checked:
    """Findings, one line each."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScrubWanted:
    """`wait`: answer at its end."""

    wait: bool = False


CHECK: Final = Call("check", Nothing, Checked)
SCRUB: Final = Call("scrub", ScrubWanted, ScrubStatus)
REPAIR: Final = Call("repair", Nothing, Repaired)
