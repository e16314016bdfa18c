"""What the hub and its devices say to each other: lists of ids, blocks and commits in bytes; logins. Pure
functions.

Spec: docs/format/hub_api.md. Little endian; sizes are checked against limits before anything is allocated.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from backend.buffer import Buffer
from backend.errors import (
    BlocksMissingError,
    ConflictError,
    DriveError,
    FactorNeededError,
    FencedError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    ReadOnlyError,
    ThrottledError,
    TransientError,
    UsageError,
    WrongKeyError,
)
from backend.upstream import (
    BLOCK_ID_SIZE,
    COMMIT_HASH_SIZE,
    MAX_PRESENCES,
    BlockId,
    Head,
    SealedBlock,
    SealedPresence,
)

PROBLEM: Final = "urn:drivefs:"
"""The type of a problem (RFC 9457) is this and its kind."""
PROBLEMS: Final[Mapping[str, tuple[int, type[DriveError]]]] = {
    "blocks_missing": (422, BlocksMissingError),
    "moved": (409, ConflictError),
    "malformed": (422, FormatError),
    "quota": (507, QuotaError),
    "full": (507, NoSpaceError),
    "not_found": (404, NotFoundError),
    "read_only": (403, ReadOnlyError),
    "left": (403, FencedError),
    "code_needed": (403, FactorNeededError),
    "wrong_login": (403, WrongKeyError),
    "refused": (422, UsageError),
    "throttled": (429, ThrottledError),
    "later": (503, TransientError),
    "damaged": (422, TransientError),
}
"""By kind: the status of the answer, and what it is raised as. A class comes before its bases, and of
two kinds of one class the first says it of an error."""
TOKEN_SIZE: Final = 32
TICKET_SIZE: Final = 16
"""Bytes by which the mover of a drive shows that it is the one that counts."""
NODES_SIZE: Final = 16
"""Bytes that say which nodes a drive is moved from or to."""
NodesId = bytes
"""These bytes; empty: no nodes are known."""
KEY_SIZE: Final = 32
"""Bytes of a salt, and of a key that a login shows."""
MAX_SEALED: Final = 4096
"""Bytes of what only an account's devices can open: a drive's name and key, a device's name, the root."""
MAX_COMMIT: Final = 80 << 20
MAX_COMMITS: Final = 16 << 20
"""Bytes of commits that are sent together, if they are several."""
MAX_ROOT: Final = 1 << 20
ROOT_NAME: Final = "[a-z0-9-]{1,32}"
"""The form of a root's name."""
MAX_WAIT: Final = 120.0
"""Seconds that a poll waits, at most."""
MAX_IDS: Final = 1000
MAX_MISSING: Final = 100_000
"""Blocks that are named as missing at once, of the many more that a commit may lack."""
MAX_BATCH: Final = 16 << 20
"""Bytes of blocks that are sent together."""
PRESENCE_SIZE: Final = 512
"""Bytes of the sealed body of a presence: of each the same, so that nothing is learnt from it."""
PRESENCE_BYTES: Final = BLOCK_ID_SIZE + PRESENCE_SIZE
"""Bytes of a presence with the keyed hash that is its key."""
MAX_PRESENCES_BYTES: Final = MAX_PRESENCES * PRESENCE_BYTES
_LENGTH: Final = struct.Struct("<I")
_SIZE: Final = struct.Struct("<IB")
"""sealed bytes, and 1 if the block is released; `_ABSENT`: it is not stored"""
_ABSENT: Final = 0xFFFFFFFF


class SecretCost(NamedTuple):
    """How the secret of an account becomes keys: salt, and the cost of Argon2id. Whoever stretches has limits
    of its own."""

    salt: bytes
    memory_kib: int
    iterations: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that opens an account, as the hub learns of it: the key that logins show, and the account
    root, wrapped."""

    cost: SecretCost
    auth_key: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """A secret of the account, as a login shows it: its kind (`passphrase` or `recovery`), its key, and the
    code of the second factor or nothing."""

    kind: str
    auth_key: bytes = field(repr=False)
    code: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class NewLogin:
    """A device that has just been made: its token, which is nowhere else, its number, and the account root,
    wrapped."""

    token: bytes = field(repr=False)
    device: int
    wrapped: bytes = field(repr=False)


def content_digest(digest: bytes) -> str:
    """The header field `Content-Digest` (RFC 9530) of a body with this SHA-256."""
    return f"sha-256=:{b64encode(digest).decode()}:"


def said_digest(field: str) -> bytes | None:
    """The SHA-256 that the header field says; None: it says none. Other algorithms are not looked at."""
    found = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):", field)
    return None if found is None else b64decode(found[1])


def encode_ids(ids: Iterable[BlockId]) -> bytes:
    """Ids one after the other."""
    return b"".join(ids)


def decode_ids(data: Buffer) -> list[BlockId]:
    """`FormatError`: it is no list of up to `MAX_IDS` ids."""
    view = memoryview(data)
    if len(view) % BLOCK_ID_SIZE or len(view) > MAX_IDS * BLOCK_ID_SIZE:
        raise FormatError(f"a list of ids has 32 bytes each and at most {MAX_IDS} of them")
    return [BlockId(bytes(view[at : at + BLOCK_ID_SIZE])) for at in range(0, len(view), BLOCK_ID_SIZE)]


def encode_blocks(blocks: Sequence[SealedBlock]) -> bytes:
    """Each with its id and length before it."""
    return b"".join(part for each in blocks for part in (each.id, _LENGTH.pack(len(each.data)), each.data))


def decode_blocks(data: Buffer) -> list[SealedBlock]:
    """`FormatError`: it is no list of blocks."""
    found, view, at = [], memoryview(data), 0
    while at < len(view):
        start = at + BLOCK_ID_SIZE + _LENGTH.size
        if start > len(view):
            raise FormatError("a block is cut off")
        (length,) = _LENGTH.unpack_from(view, at + BLOCK_ID_SIZE)
        if start + length > len(view):
            raise FormatError("a block is cut off")
        found.append(
            SealedBlock(BlockId(bytes(view[at : at + BLOCK_ID_SIZE])), bytes(view[start : start + length]))
        )
        at = start + length
    return found


def encode_sizes(sizes: Sequence[tuple[int, bool] | None]) -> bytes:
    """For each block asked for its sealed bytes, and whether it is released; None: it is not stored."""
    return b"".join(_SIZE.pack(_ABSENT, 0) if each is None else _SIZE.pack(*each) for each in sizes)


def decode_sizes(data: Buffer, count: int) -> list[tuple[int, bool] | None]:
    """`FormatError`: it is no answer for so many blocks."""
    if len(data) != count * _SIZE.size:
        raise FormatError("an answer of another number of blocks")
    return [None if size == _ABSENT else (size, bool(released)) for size, released in _SIZE.iter_unpack(data)]


def encode_commits(commits: Sequence[bytes]) -> bytes:
    """Encoded commits, each with its length before it."""
    return b"".join(part for each in commits for part in (_LENGTH.pack(len(each)), each))


def decode_commits(data: Buffer) -> Iterator[bytes]:
    """`FormatError`: it is no list of commits."""
    view, at = memoryview(data), 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise FormatError("a commit is cut off")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if at + length > len(view):
            raise FormatError("a commit is cut off")
        yield bytes(view[at : at + length])
        at += length


def encode_presences(shown: Iterable[SealedPresence]) -> bytes:
    """Each with its key before it."""
    return b"".join(part for each in shown for part in each)


def decode_presences(data: Buffer, most: int) -> list[SealedPresence]:
    """`FormatError`: it is no list of up to `most` presences."""
    view = memoryview(data)
    if len(view) % PRESENCE_BYTES or len(view) > most * PRESENCE_BYTES:
        raise FormatError(f"a list of presences has {PRESENCE_BYTES} bytes each and at most {most} of them")
    parts = [bytes(view[at : at + PRESENCE_BYTES]) for at in range(0, len(view), PRESENCE_BYTES)]
    return [SealedPresence(part[:BLOCK_ID_SIZE], part[BLOCK_ID_SIZE:]) for part in parts]


def decode_number(text: str) -> int:
    """A number that is not negative, in decimal digits. `FormatError`: it is none below 2^63."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise FormatError("it is no number")
    return int(text)


def encode_head(head: Head) -> str:
    """`number:hash`, as a header has it."""
    return f"{head.number}:{head.hash.hex()}"


def decode_head(text: str) -> Head:
    """`FormatError`: it is no head."""
    number, _, digest = text.partition(":")
    try:
        head = Head(decode_number(number), bytes.fromhex(digest))
    except ValueError:
        raise FormatError("it is no head") from None
    if len(head.hash) != COMMIT_HASH_SIZE:
        raise FormatError("it is no head")
    return head
