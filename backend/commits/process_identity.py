"""The identity of this process, and whether another one still runs, as Linux tells it (proc(5)).

A process is its machine, boot, pid namespace, pid and start time: pids come back, start times of one
boot do not. Without a machine id (containers) the boot id alone names the machine.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final, Literal

from backend.commits.lease_record import Holder
from backend.system import plain_hash

Life = Literal["running", "stopped", "gone", "elsewhere"]
_GONE_STATES: Final = "ZXx"
_STOPPED_STATES: Final = "Tt"


def this_process() -> Holder:
    """This process."""
    state_and_start = _stat(os.getpid())
    if state_and_start is None:
        raise RuntimeError("/proc is not there or does not show this process")
    return Holder(
        machine=_machine(),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=os.readlink("/proc/self/ns/pid"),
        pid=os.getpid(),
        started=state_and_start[1],
        host=socket.gethostname(),
    )


def life_of(holder: Holder, observer: Holder) -> Life:
    """The state of `holder`, seen from the process `observer` (this one): `elsewhere` if it cannot be seen
    from here. A zombie (killed, not yet waited for) is gone: none of its threads will run again."""
    here = (observer.machine, observer.boot, observer.pid_namespace)
    if (holder.machine, holder.boot, holder.pid_namespace) != here:
        return "elsewhere"
    found = _stat(holder.pid)
    if found is None or found[1] != holder.started or found[0] in _GONE_STATES:
        return "gone"
    return "stopped" if found[0] in _STOPPED_STATES else "running"


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time (clock ticks since boot): fields 3 and 22 of /proc/PID/stat."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = text.rpartition(")")[2].split()
    return after_name[0], int(after_name[19])


def _machine() -> str:
    """A hash: machine-id(5) wants the id itself kept confidential."""
    identity = "unknown"
    with suppress(OSError):
        identity = _read("/etc/machine-id") or identity
    return plain_hash(b"drivefs lease machine " + identity.encode()).hex()[:32]


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
