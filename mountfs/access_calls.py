"""Whether a process asks by access(2) for permission to write.

With `default_permissions` the kernel answers access(2) by itself, from mode and owner. So it tells root, and
the owner of a file of the past, that the file can be written, unless the file system is mounted read-only.
Before it answers, the kernel asks the file system for the attributes if it may not remember them
(fs/fuse/dir.c, `fuse_permission`). That request names the process and no purpose; an error in answer to it
reaches the process. So the process is looked at: it waits in its system call, whose number and arguments
proc_pid_syscall(5) shows. Where that may not be read (yama's `ptrace_scope`, another architecture) the
kernel's answer stands, and open(2) refuses.
"""

from __future__ import annotations

import os
import platform
from typing import Final

_CALLS: Final = {
    "x86_64": {"21": 2, "269": 3, "439": 3},
    "aarch64": {"48": 3, "439": 3},
}
"""By machine and number (access, faccessat, faccessat2 of syscalls(2)): which word has the mode."""
_WORDS: Final = _CALLS.get(platform.machine(), {})
_LOOKS: Final = 50
"""So often one looks at a process that has sent its request and is about to wait for the answer."""


def asks_to_write(thread: int) -> bool:
    """Whether the thread (its number in our PID namespace; 0: it is in none that we see) is in access(2) or
    its kin with W_OK. False if that cannot be known."""
    if not _WORDS or not thread:
        return False
    for _ in range(_LOOKS):
        words = _call_of(thread)
        if words != ["running"]:
            break
        os.sched_yield()
    return bool(words) and is_asking_to_write(words)


def is_asking_to_write(words: list[str]) -> bool:
    """The same, of what proc_pid_syscall(5) has: the number of the call and its arguments."""
    place = _WORDS.get(words[0])
    return place is not None and len(words) > place and bool(int(words[place], 16) & os.W_OK)


def _call_of(thread: int) -> list[str]:
    try:
        with open(f"/proc/{thread}/syscall", encoding="ascii") as file:
            return file.read().split()
    except OSError:  # it has ended, or may not be looked at
        return []
