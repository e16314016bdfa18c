"""What the process has imported that commands are forked from (`tests.mount.commands`).

To be imported there only. From then on the interpreter's garbage collection leaves alone what is there: a
forked command shares it, and does not walk through it.
"""

from __future__ import annotations

import gc
from importlib import import_module

from tests.mount import commands
from tools import drivefs, fsck, mkfs, mount, umount

__all__ = ["commands", "fsck", "mkfs", "mount", "umount"]

for _module in drivefs.MODULES:
    import_module(f"tools.commands.{_module}")
import_module("anyio._backends._trio")  # anyio looks for it when trio first runs
gc.freeze()
