"""Named places where a test stops the process or makes a step fail.

`FAILPOINTS` lists every name with what has and has not happened when it is reached; a name that is
not listed is refused, so that a test cannot wait for a place that no longer exists. Armed by the
environment `DRIVEFS_FAILPOINTS=name=action[*skip],...` (for a mount in another process) or by `arm`
(in tests). Actions: `kill` (SIGKILL of this process), `eio`, `enospc` (OSError), `count` (only count),
or, in tests, a function: it is called in the thread that reached the place, and what it raises is raised.
An armed place that was reached is appended to the file named by `DRIVEFS_FAILPOINTS_SEEN`, so that
a crash test can see that its failpoint fired. Unarmed, a failpoint costs one dictionary look-up.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Action = str | Callable[[], None]

FAILPOINTS: dict[str, str] = {}
"""Name -> the state of things there. Modules add theirs with `declare` when they are imported."""


@dataclass
class _Armed:
    action: Action
    skip: int


_armed: dict[str, _Armed] = {}
hits: Counter[str] = Counter()
"""How often each armed failpoint was reached in this process."""


def declare(name: str, state: str) -> str:
    """Make `name` known; returns it, so that a module can keep it as a constant."""
    FAILPOINTS[name] = state
    return name


def arm(name: str, action: Action = "count", skip: int = 0) -> None:
    """From the (`skip`+1)-th time on, `name` does `action`."""
    if isinstance(action, str) and action not in ("kill", "eio", "enospc", "count"):
        raise ValueError(f"unknown failpoint action: {action}")
    _armed[name] = _Armed(action, skip)


def disarm_all() -> None:
    """Back to normal; counters too."""
    _armed.clear()
    hits.clear()


def are_wanted() -> bool:
    """Whether the environment names any."""
    return bool(os.environ.get("DRIVEFS_FAILPOINTS"))


def arm_from_environment() -> None:
    """Arm what `DRIVEFS_FAILPOINTS` says; `ValueError` for a name that nobody declared."""
    for item in filter(None, os.environ.get("DRIVEFS_FAILPOINTS", "").split(",")):
        name, _, what = item.partition("=")
        if name not in FAILPOINTS:
            raise ValueError(f"unknown failpoint: {name}")
        action, _, skip = what.partition("*")
        arm(name, action, int(skip or 0))


def failpoint(name: str) -> None:
    """Pass, unless a test armed this place."""
    if not _armed:
        return
    place = _armed.get(name)
    if place is not None:
        _reached(name, place)


def _reached(name: str, place: _Armed) -> None:
    hits[name] += 1
    if hits[name] <= place.skip:
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
