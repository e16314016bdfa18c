"""Names that are no UTF-8: a folder that has had one says so.

A door that lists a folder in the order of its own names (an object store's) has to know such names before it
begins, because their place there is another one. To look at every name for them costs as much as the folder
is large. So the first that is made is noted, in the attribute `FOREIGN` of the folder, in the same batch. No
program sees or changes it. It stays when the name goes.
"""

from __future__ import annotations

from typing import Final

from cache.namespace import Namespace, Operation, SetXattr

FOREIGN: Final = b"drivefs.foreign"


def noting_foreign(namespace: Namespace, directory: int, name: bytes, now: int) -> list[Operation]:
    """The operation that belongs into the batch that makes this name, mostly none."""
    if name.isascii() or is_text(name) or namespace.xattr(directory, FOREIGN) is not None:
        return []
    return [SetXattr(directory, FOREIGN, b"", now)]


def is_text(name: bytes) -> bool:
    """Whether it is UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
