"""Keys of objects and names of the mount, of all kinds that the key rule tells apart."""

from __future__ import annotations

from hypothesis import strategies as st

from gateway.s3.key_paths import BadKeyError, check_key


def is_allowed(key: bytes) -> bool:
    """Whether S3 allows the key."""
    try:
        check_key(key)
    except BadKeyError:
        return False
    return True


FRAGMENTS = [b".s3~", b"e", b"q", b"b", b"n", b"m", b"z", b"self", b".versions", b".", b"a", b"2e", b"ff"]
NAMES = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map(b"".join),
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(str.encode),
    st.builds(
        lambda tag, piece, count: (tag + piece * count)[:255],
        st.sampled_from([b".s3~n", b".s3~m", b".s3~z", b".s3~q", b".s3~b"]),
        st.sampled_from([b"a", "é".encode(), "𐀀".encode()]),
        st.integers(0, 255),
    ),
).filter(lambda name: name not in (b".", b"..") and not {0, 47}.intersection(name) and len(name) <= 255)

HEXED = NAMES.map(lambda name: b".s3~b" + name.hex().encode())
SEGMENTS = st.one_of(
    st.sampled_from([b"", b".", b"..", b".versions", b".s3~e", b".s3~self", b"a", b"b"]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(b"".join),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=20).map(str.encode),
    st.builds(
        lambda char, count: char * count,
        st.sampled_from([b"a", "é".encode(), "𐀀".encode()]),
        st.integers(60, 600),
    ),
    HEXED,
    HEXED.map(lambda name: b".s3~q" + name),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map(b"/".join).filter(is_allowed)
"""All that S3 allows."""
