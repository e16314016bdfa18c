"""Named places where a test stops the process or makes a step fail.

`FAILPOINTS` lists every name with what has and has not happened when it is reached; a name that is
not listed is refused, so that a test cannot wait for a place that no longer exists. Each device has
failpoints of its own (`backend.system.environment`), armed by the environment variable
`DRIVEFS_FAILPOINTS=name=action[*skip],...` (for a mount in another process) or by `arm` (in tests).
Actions: `kill` (SIGKILL of this process), `eio`, `enospc` (OSError), `count` (only count), or, in tests, a
function: it is called in the thread that reached the place, and what it raises is raised.
An armed place that was reached is appended to the file named by `DRIVEFS_FAILPOINTS_SEEN`, so that
a crash test can see that its failpoint fired. Unarmed, a failpoint costs one look at whether any is armed.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Action = str | Callable[[], None]

FAILPOINTS: dict[str, str] = {}
"""Name -> the state of things there. Modules add theirs with `declare` when they are imported."""


@dataclass
class _Armed:
    action: Action
    skip: int


def declare(name: str, state: str) -> str:
    """Make `name` known; returns it, so that a module can keep it as a constant."""
    FAILPOINTS[name] = state
    return name


def are_wanted() -> bool:
    """Whether the environment names any."""
    return bool(os.environ.get("DRIVEFS_FAILPOINTS"))


class Failpoints:
    """Those of one device; none is armed at first."""

    def __init__(self) -> None:
        self._armed: dict[str, _Armed] = {}
        self.hits: Final[Counter[str]] = Counter()
        """how often each armed failpoint was reached"""

    def arm(self, name: str, action: Action = "count", skip: int = 0) -> None:
        """From the (`skip`+1)-th time on, `name` does `action`."""
        if isinstance(action, str) and action not in ("kill", "eio", "enospc", "count"):
            raise ValueError(f"unknown failpoint action: {action}")
        self._armed[name] = _Armed(action, skip)

    def disarm_all(self) -> None:
        """Back to normal; counters too."""
        self._armed.clear()
        self.hits.clear()

    def arm_from_environment(self) -> None:
        """Arm what `DRIVEFS_FAILPOINTS` says; `ValueError` for a name that nobody declared."""
        for item in filter(None, os.environ.get("DRIVEFS_FAILPOINTS", "").split(",")):
            name, _, what = item.partition("=")
            if name not in FAILPOINTS:
                raise ValueError(f"unknown failpoint: {name}")
            action, _, skip = what.partition("*")
            self.arm(name, action, int(skip or 0))

    def reached(self, name: str) -> None:
        """Pass, unless a test armed this place."""
        if not self._armed:
            return
        place = self._armed.get(name)
        if place is not None:
            self._act(name, place)

    def _act(self, name: str, place: _Armed) -> None:
        self.hits[name] += 1
        if self.hits[name] <= place.skip:
            return
        seen = os.environ.get("DRIVEFS_FAILPOINTS_SEEN")
        if seen:
            with open(seen, "a") as file:
                file.write(name + "\n")
        if not isinstance(place.action, str):
            place.action()
        elif place.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif place.action != "count":
            number = errno.EIO if place.action == "eio" else errno.ENOSPC
            raise OSError(number, f"failpoint {name}")


OF_PROCESS: Final = Failpoints()
"""Of the device that is this machine."""
