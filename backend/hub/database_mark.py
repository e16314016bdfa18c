"""The mark of a hub's database, which every node keeps: by it a database that is older is noticed.

Spec: docs/format/database_mark.md. Pure functions, any thread.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import derive, keyed_hash

KEY: Final = "hub/database-mark"
"""Of the object on each node."""
MAGIC: Final = b"DFHM"
VERSION: Final = 1
_FIELDS: Final = struct.Struct("<4sH2x16sQQQ")
_HASH: Final = 32
SIZE: Final = _FIELDS.size + _HASH


@dataclass(frozen=True, slots=True, order=True)
class DatabaseMark:
    """`number` rises with each mark that is written. `cluster` and `database` say which database of which
    server: PostgreSQL's system identifier, which its standbys share, and the database's OID."""

    number: int
    cluster: int
    database: int

    def is_of(self, other: DatabaseMark) -> bool:
        """Whether both are of one database."""
        return (self.cluster, self.database) == (other.cluster, other.database)


def mark_secret(pack_key: bytes) -> bytes:
    """The key of the checksums of marks, from that of the packs."""
    return derive(pack_key, "database mark")


def encode(mark: DatabaseMark, hub: bytes, secret: bytes) -> bytes:
    """The object of a hub (its id, 16 bytes), under `mark_secret`."""
    fields = _FIELDS.pack(MAGIC, VERSION, hub, mark.number, mark.cluster, mark.database)
    return fields + keyed_hash(secret, fields)


def decode(data: Buffer, hub: bytes, secret: bytes) -> DatabaseMark:
    """The mark. `FormatError`: another version; `CorruptError`: not what this hub has written."""
    if len(data) != SIZE:
        raise CorruptError(f"a mark of {len(data)} bytes, not {SIZE}")
    magic, version, of_hub, *values = _FIELDS.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION):
        raise FormatError("a mark of an unknown version")
    fields, found = bytes(data[: _FIELDS.size]), bytes(data[_FIELDS.size :])
    if not hmac.compare_digest(keyed_hash(secret, fields), found) or of_hub != hub:
        raise CorruptError("not a mark of this hub")
    return DatabaseMark(*values)
