"""The id of a drive, by its name in the kernel's table of mounts."""

from __future__ import annotations

import os

from backend.cluster import drive_file
from backend.system import THIS_MACHINE
from tools.hub.drives import Address, HubDrives
from tools.hub_address import is_at_hub


def drive_id_of(source: str) -> bytes:
    """16 bytes. No hub is asked. `NotFoundError`, `FormatError`, `CorruptError`, `TransientError`. Blocks."""
    if is_at_hub(source):
        return HubDrives(Address.parse(source), os.environ, THIS_MACHINE).known().drive_id
    return drive_file.load(os.path.join(source, drive_file.FILE_NAME)).id
