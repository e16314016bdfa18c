"""Whether a drive is at a hub, by its name in commands and in the kernel's table of mounts."""

from __future__ import annotations

from typing import Final

from backend.errors import UsageError

_SCHEMES: Final = ("https://", "http://")


def is_at_hub(drive: str) -> bool:
    """Whether the drive is at a hub, and in no folder."""
    return drive.startswith(_SCHEMES)


def drive_on_nodes(drive: str) -> str:
    """The same, for commands about nodes and what lies beside them; `UsageError` if the drive is at a hub."""
    if is_at_hub(drive):
        raise UsageError(
            f"{drive}: the drive is at a hub, which has its nodes and looks after them; this is for drives "
            "in folders"
        )
    return drive
