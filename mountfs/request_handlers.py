"""Kernel requests to drive calls: decode, call, encode, and nothing else.

A handler gets what pyfuse3 took from the kernel, makes one call of `Drive`, and turns the answer into
pyfuse3's reply objects (`mountfs.conversions`). Rules that hold for all of them:
- Every entry that the kernel accepts (lookup, create, mknod, mkdir, symlink, link, and readdir's entries
  but for `.` and `..`) holds its inode once; `forget` releases. An open file or folder holds it once too.
- Whatever a handler raises becomes an errno (`mountfs.answered`); nothing ends the mount.
- What belongs to the past (`cache.services.versions_view`) is told by its inode number. It cannot be changed.
"""

from __future__ import annotations

from mountfs.attribute_handlers import AttributeHandlers
from mountfs.file_handlers import FileHandlers
from mountfs.folder_handlers import FolderHandlers
from mountfs.name_handlers import NameHandlers
from mountfs.xattr_handlers import XattrHandlers


class RequestHandlers(NameHandlers, AttributeHandlers, XattrHandlers, FileHandlers, FolderHandlers):
    """The request handlers of one mount. What is not here (access, poll) is answered ENOSYS once, and the
    kernel does it alone: `default_permissions` is always on."""

    supports_dot_lookup = False
    enable_writeback_cache = True
