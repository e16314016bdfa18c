"""A drive's packs and fragments as bytes: the erasure code, the drive's id and the pack key in one place.

Pure functions, for any thread. The formats: `pack_format`, `fragment_format`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from backend.buffer import Buffer
from backend.coding import ErasureCode
from backend.errors import CorruptError, FormatError
from backend.packs import pack_format
from backend.packs.fragment_format import (
    FOOTER_SIZE,
    FragmentFooter,
    decode_footer,
    encode_footer,
    fragment_secret,
    parse_fragment,
)
from backend.packs.pack import Pack
from backend.packs.pack_format import MAX_PACK_SIZE, TRAILER_SIZE, PackEntry, PackTrailer
from backend.upstream import SealedBlock


class PackCodec:
    """See the module."""

    def __init__(self, code: ErasureCode, drive_id: bytes, pack_key: bytes) -> None:
        self.code: Final = code
        self._drive_id = drive_id
        self._key = pack_key
        self._secret = fragment_secret(pack_key)

    def encode(self, pack_id: bytes, blocks: Sequence[SealedBlock]) -> tuple[bytes, list[PackEntry]]:
        """See `pack_format.encode_pack`."""
        return pack_format.encode_pack(self._drive_id, pack_id, self._key, blocks)

    def index_of(self, pack_id: bytes, whole: bytes) -> list[PackEntry]:
        """The index of a whole pack that is at hand; `CorruptError`, `FormatError`."""
        return pack_format.decode_pack_index(self._drive_id, pack_id, self._key, whole)

    def open_index(self, pack_id: bytes, trailer: PackTrailer, sealed: Buffer) -> list[PackEntry]:
        """The index from its sealed bytes; `CorruptError`, `FormatError`."""
        return pack_format.decode_index(self._drive_id, pack_id, self._key, trailer, sealed)

    def stored_size(self, size: int) -> int:
        """Bytes of all fragments of a pack of `size` bytes."""
        return self.code.profile.total * self.fragment_length(size)

    def fragment_length(self, size: int) -> int:
        """Bytes of one fragment, with its footer, of a pack of `size` bytes."""
        return self.code.fragment_size(size) + FOOTER_SIZE

    def fragments(self, pack: Pack, data: bytes) -> list[list[Buffer]]:
        """All fragments of the pack that has these bytes, in parts."""
        return [self._with_footer(pack, *each) for each in enumerate(self.code.encode(data))]

    def rebuilt(self, pack: Pack, good: Mapping[int, bytes], wrong: Sequence[int]) -> dict[int, list[Buffer]]:
        """The fragments `wrong`, in parts, from the payloads of k others."""
        found = self.code.rebuild(good, wrong, pack.size)
        return {index: self._with_footer(pack, index, payload) for index, payload in found.items()}

    def payload(self, pack: Pack, index: int, data: bytes) -> bytes:
        """The payload of that fragment of that pack. `CorruptError` or `FormatError` unless it is just
        that one, whole."""
        footer, payload = parse_fragment(data, self._secret)
        if footer != self._footer(pack.id, index, pack.size):
            pack_id = footer.pack_id.hex()
            raise CorruptError(f"misplaced: fragment {footer.index} of pack {pack_id}, or of another drive")
        return bytes(payload)

    def pack_size(self, pack_id: bytes, index: int, data: bytes) -> int:
        """The size of the pack by a fragment of it that is whole and in its place; `CorruptError`,
        `FormatError`."""
        footer, _ = parse_fragment(data, self._secret)
        if footer != self._footer(pack_id, index, footer.pack_size):
            raise CorruptError("it is another fragment, or of another drive or profile")
        return footer.pack_size

    def claimed_size(self, pack_id: bytes, footer_bytes: bytes) -> int:
        """The size of the pack by a footer alone, whose checksum nobody has looked at. `CorruptError`,
        `FormatError`."""
        footer = decode_footer(footer_bytes)
        if footer.pack_size > MAX_PACK_SIZE or footer.pack_size <= TRAILER_SIZE:
            raise FormatError(f"a pack cannot have {footer.pack_size} bytes")
        if (footer.drive_id, footer.pack_id, footer.profile) != (self._drive_id, pack_id, self.code.profile):
            raise CorruptError("the footer names another drive, pack or profile")
        return footer.pack_size

    def _with_footer(self, pack: Pack, index: int, payload: bytes) -> list[Buffer]:
        return [payload, encode_footer(payload, self._footer(pack.id, index, pack.size), self._secret)]

    def _footer(self, pack_id: bytes, index: int, size: int) -> FragmentFooter:
        payload = self.code.fragment_size(size)
        return FragmentFooter(self._drive_id, pack_id, index, self.code.profile, payload, size)
