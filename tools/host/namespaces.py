"""The `-N` of mount(8): do it in another mount namespace (setns(2), mount_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CLONE_NEWNS: Final = 0x00020000


def enter_mount_namespace(namespace: str) -> None:
    """Move this process into the mount namespace of a process id, or of a file such as
    `/proc/1/ns/mnt`. Before any thread is started. OSError if that is not allowed."""
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)
