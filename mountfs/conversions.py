"""Between the types of pyfuse3 and those of the drive: replies, changes of attributes, callers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext, SetattrFields

from cache.attributes import AttributeChange, Attributes
from cache.history import Caller
from cache.services import Found

CACHE_SECONDS: Final = 86_400.0
"""How long the kernel may remember an answer: names, attributes and the absence of names. What else changes
the drive tells the kernel by invalidation."""


def entry_reply(attributes: Attributes) -> EntryAttributes:
    """`attributes` as pyfuse3 wants them, cached by the kernel for `CACHE_SECONDS`."""
    reply = EntryAttributes()
    reply.st_ino = attributes.inode
    reply.entry_timeout = CACHE_SECONDS
    reply.attr_timeout = CACHE_SECONDS
    reply.st_mode = attributes.mode
    reply.st_nlink = attributes.nlink
    reply.st_uid = attributes.uid
    reply.st_gid = attributes.gid
    reply.st_rdev = attributes.rdev
    reply.st_size = attributes.size
    reply.st_blocks = attributes.blocks
    reply.st_atime_ns = attributes.atime_ns
    reply.st_mtime_ns = attributes.mtime_ns
    reply.st_ctime_ns = attributes.ctime_ns
    return reply


def past_reply(found: Found) -> EntryAttributes:
    reply = entry_reply(found.attributes)
    reply.entry_timeout = found.name_seconds
    reply.attr_timeout = found.attribute_seconds
    return reply


def absent_reply() -> EntryAttributes:
    """Inode 0: the name does not exist, and the kernel may remember that."""
    reply = EntryAttributes()
    reply.st_ino = 0
    reply.entry_timeout = CACHE_SECONDS
    return reply


def attribute_change(wanted: EntryAttributes, fields: SetattrFields) -> AttributeChange:
    """The change that the kernel asks for. `UTIME_NOW` was resolved by pyfuse3."""
    return AttributeChange(
        mode=wanted.st_mode if fields.update_mode else None,
        uid=wanted.st_uid if fields.update_uid else None,
        gid=wanted.st_gid if fields.update_gid else None,
        size=wanted.st_size if fields.update_size else None,
        atime_ns=wanted.st_atime_ns if fields.update_atime else None,
        mtime_ns=wanted.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=wanted.st_ctime_ns if fields.update_ctime else None,
    )


def caller_of(ctx: RequestContext) -> Caller:
    """The calling process; one that has ended is in no group."""

    def groups() -> Collection[int]:
        try:
            return pyfuse3.get_sup_groups(ctx.pid)
        except OSError:
            return ()

    return Caller(ctx.uid, ctx.gid, groups)
