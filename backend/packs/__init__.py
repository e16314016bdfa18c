"""Packs: many sealed blocks in one file, cut into fragments, written to and read from nodes."""

from backend.packs.fragment_format import (
    FOOTER_SIZE,
    MAX_PAYLOAD,
    PACK_ID_SIZE,
    FragmentFooter,
    decode_footer,
    fragment_key,
    fragment_secret,
    parse_fragment,
    parse_fragment_key,
)
from backend.packs.fragment_listing import FragmentListing, list_fragments
from backend.packs.fragment_reader import FragmentReader, is_wrong, named
from backend.packs.neighbours import SMALL, WINDOW
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_format import (
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    MAX_CONTENT,
    MAX_PACK_SIZE,
    TRAILER_SIZE,
    PackEntry,
    check_block,
    decode_index,
    decode_pack_index,
    decode_trailer,
    encode_pack,
    encoded_size,
)
from backend.packs.pack_reader import PackReader
from backend.packs.pack_store import PackStore, PackWrite, require_placeable
from backend.packs.recent_bytes import RecentBytes
from backend.packs.thin_packs import PackNeeds, together

__all__ = [
    "FOOTER_SIZE",
    "MAX_BLOCKS",
    "MAX_BLOCK_SIZE",
    "MAX_CONTENT",
    "MAX_PACK_SIZE",
    "MAX_PAYLOAD",
    "PACK_ID_SIZE",
    "SMALL",
    "TRAILER_SIZE",
    "WINDOW",
    "FragmentFooter",
    "FragmentListing",
    "FragmentReader",
    "Pack",
    "PackCodec",
    "PackEntry",
    "PackNeeds",
    "PackReader",
    "PackStore",
    "PackWrite",
    "RecentBytes",
    "check_block",
    "decode_footer",
    "decode_index",
    "decode_pack_index",
    "decode_trailer",
    "encode_pack",
    "encoded_size",
    "fragment_key",
    "fragment_secret",
    "is_wrong",
    "list_fragments",
    "named",
    "parse_fragment",
    "parse_fragment_key",
    "require_placeable",
    "together",
]
