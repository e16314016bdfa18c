"""Codec of a fragment object: the erasure code's bytes, then a fixed footer (docs/format/fragment.md).

The footer says of which drive and pack and at which index the fragment is, and carries a keyed BLAKE3 of
everything before it: neither a damaged or misplaced fragment nor one that a node made up reaches the erasure
decoder, which would spread it over the whole pack, and by repair to other nodes. Pure functions.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

import blake3

from backend.buffer import Buffer
from backend.coding import Profile
from backend.errors import CorruptError, FormatError
from backend.system import derive

MAGIC: Final = b"DFFR"
VERSION: Final = 2
DRIVE_ID_SIZE: Final = 16
PACK_ID_SIZE: Final = 16
MAX_PAYLOAD: Final = 32 * 1024 * 1024
"""No fragment's payload is longer: a reader refuses it before it allocates."""

_FIELDS: Final = struct.Struct("<4sHBBBB2x16s16sII")
_CHECKSUM_SIZE: Final = 32
FOOTER_SIZE: Final = _FIELDS.size + _CHECKSUM_SIZE


@dataclass(frozen=True, slots=True)
class FragmentFooter:
    """The contents of a footer. `pack_size` is the length of what was encoded, `payload_size` of the
    erasure code's bytes before the footer."""

    drive_id: bytes
    pack_id: bytes
    index: int
    profile: Profile
    payload_size: int
    pack_size: int


def fragment_key(pack_id: bytes, index: int) -> str:
    """The key under which a node keeps a fragment."""
    name = pack_id.hex()
    return f"packs/{name[:2]}/{name}.{index}"


def parse_fragment_key(key: str) -> tuple[bytes, int] | None:
    """(pack id, index) of a fragment's key; None for any other key."""
    name, _, index = key.rpartition("/")[2].partition(".")
    if not (index.isascii() and index.isdigit() and len(index) <= 2 and len(name) == 2 * PACK_ID_SIZE):
        return None
    try:
        pack_id = bytes.fromhex(name)
    except ValueError:
        return None
    return (pack_id, int(index)) if key == fragment_key(pack_id, int(index)) else None


def fragment_secret(pack_key: bytes) -> bytes:
    """The key of the fragments' checksums, from that of the packs."""
    return derive(pack_key, "fragment")


def encode_footer(payload: Buffer, footer: FragmentFooter, secret: bytes) -> bytes:
    """The footer that follows `payload`, under `fragment_secret`; `ValueError` if the two do not agree."""
    if len(payload) != footer.payload_size or footer.payload_size > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes does not fit its footer")
    profile = footer.profile
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        profile.kind,
        profile.k,
        profile.m,
        footer.index,
        footer.drive_id,
        footer.pack_id,
        footer.payload_size,
        footer.pack_size,
    )
    return fields + blake3.blake3(payload, key=secret).update(fields).digest()


def decode_footer(data: Buffer) -> FragmentFooter:
    """The fields of a footer alone (its FOOTER_SIZE bytes), not checked against the checksum.
    `FormatError` for another magic, version, profile or a size over its limit."""
    if len(data) != FOOTER_SIZE:
        raise CorruptError(f"a fragment's footer has {FOOTER_SIZE} bytes, not {len(data)}")
    magic, version, kind, k, m, index, drive_id, pack_id, payload, pack = _FIELDS.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("no fragment's footer: its magic is missing")
    if version != VERSION:
        raise FormatError(f"fragment format {version} is unknown here (known: {VERSION})")
    profile = Profile(kind, k, m)
    if kind not in (1, 2) or not profile.is_possible() or index >= profile.total:
        raise FormatError(f"no such fragment: kind {kind}, profile {k}+{m}, index {index}")
    if payload > MAX_PAYLOAD or pack > payload * k:
        raise FormatError(f"sizes out of bounds: payload {payload}, pack {pack}")
    return FragmentFooter(drive_id, pack_id, index, profile, payload, pack)


def parse_fragment(data: bytes, secret: bytes) -> tuple[FragmentFooter, memoryview]:
    """A whole fragment: what it says it is, and its payload, whose checksum holds under `fragment_secret`.
    `CorruptError` or `FormatError` say what is wrong; sizes are checked before anything is hashed."""
    if len(data) < FOOTER_SIZE:
        raise CorruptError(f"truncated: {len(data)} bytes are less than a footer")
    view = memoryview(data)
    footer = decode_footer(view[-FOOTER_SIZE:])
    payload = view[:-FOOTER_SIZE]
    if len(payload) != footer.payload_size:
        raise CorruptError(f"payload of {len(payload)} bytes, its footer says {footer.payload_size}")
    expected = blake3.blake3(view[:-_CHECKSUM_SIZE], key=secret).digest()
    if not hmac.compare_digest(expected, view[-_CHECKSUM_SIZE:]):
        raise CorruptError("checksum mismatch")
    return footer, payload
