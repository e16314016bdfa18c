"""The speed of the last repair of some size on this machine: a small file in the cache folder, for the
durability model. Losing it loses nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from backend.system import THIS_MACHINE, Environment

FILE: Final = "repair.json"
LEAST: Final = 64 << 20
"""A smaller repair says nothing about the speed of a large one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RepairRecord:
    """`rebuilt` bytes of fragments were written in `seconds`; `finished_ns` since 1970."""

    rebuilt: int
    seconds: float
    finished_ns: int

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.rebuilt / self.seconds


def keep(folder: Path, rebuilt: int, seconds: float, environment: Environment = THIS_MACHINE) -> None:
    """Remember a repair, if it was large enough. One that cannot be written is told in the log. Blocks for a
    small file's fsync."""
    if rebuilt < LEAST or seconds <= 0:
        return
    record = RepairRecord(rebuilt, seconds, environment.wall_clock())
    try:
        environment.disk.write_file(str(folder / FILE), [json.dumps(asdict(record)).encode()])
    except OSError as error:
        log.warning("%s cannot be written: %s", folder / FILE, error.strerror)


def load(folder: Path) -> RepairRecord | None:
    """The record; None if there is none, or it cannot be understood."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        record = RepairRecord(*(found[each.name] for each in fields(RepairRecord)))
        numbers = (record.rebuilt, record.seconds, record.finished_ns)
        is_sound = all(isinstance(each, int | float) and each > 0 for each in numbers)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_sound else None
