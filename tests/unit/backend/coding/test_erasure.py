"""backend.coding.erasure: any k of k+m, the map of ranges, and headers that a hostile node might forge."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.coding.erasure import COPIES, REED_SOLOMON, ErasureCode, Profile, code_for
from backend.errors import CorruptError, UsageError

PROFILES = ["4+2", "2+1", "3+3", "10+4", "copies:1", "copies:3"]
CODES = {text: code_for(Profile.parse(text)) for text in PROFILES}


def pattern(size: int) -> bytes:
    return bytes((number * 7 + number // 251) % 256 for number in range(size))


def some(fragments: list[bytes], indices: tuple[int, ...]) -> dict[int, bytes]:
    return {index: fragments[index] for index in indices}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4+2", Profile(REED_SOLOMON, 4, 2)),
        ("20+12", Profile(REED_SOLOMON, 20, 12)),
        ("copies:1", Profile(COPIES, 1, 0)),
        ("copies:3", Profile(COPIES, 1, 2)),
    ],
)
def test_profiles_are_read_and_written(text: str, expected: Profile) -> None:
    assert Profile.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "4+",
        "+2",
        "4+0",
        "1+2",
        "0+2",
        "20+13",
        "99+99",
        "4+2 ",
        "copies:0",
        "copies:33",
        "copies:",
        "copies:-1",
        "4-2",
        "four+two",
        "4+2\n",
    ],
)
def test_impossible_profiles_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="profile"):
        Profile.parse(text)


@pytest.mark.parametrize(("text", "quorum"), [("4+2", 5), ("2+1", 3), ("copies:1", 1), ("copies:3", 2)])
def test_the_write_quorum_is_one_more_than_needed(text: str, quorum: int) -> None:
    assert Profile.parse(text).write_quorum == quorum


@pytest.mark.parametrize("text", PROFILES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 511, 4096, 70001])
def test_any_k_fragments_give_the_data_back(text: str, size: int) -> None:
    code, data = CODES[text], pattern(size)
    fragments = code.encode(data)
    assert {len(fragment) for fragment in fragments} == {code.fragment_size(size)}
    for indices in list(combinations(range(code.profile.total), code.profile.k))[:40]:
        assert code.decode(some(fragments, indices), size) == data


@pytest.mark.parametrize("text", ["10+4", "12+6", "20+12"])
def test_wide_codes_are_decodable_from_parity(text: str) -> None:
    """What ISA-L's Vandermonde matrix would not promise."""
    code, data = code_for(Profile.parse(text)), pattern(5000)
    fragments = code.encode(data)
    k, total = code.profile.k, code.profile.total
    for start in range(total - k + 1):
        assert code.decode(some(fragments, tuple(range(start, start + k))), 5000) == data


@pytest.mark.parametrize("text", ["4+2", "3+3", "copies:3"])
def test_any_missing_fragments_are_rebuilt_byte_for_byte(text: str) -> None:
    code = CODES[text]
    fragments = code.encode(pattern(10007))
    for count in range(code.profile.m + 1):
        for missing in combinations(range(code.profile.total), count):
            left = some(fragments, tuple(i for i in range(code.profile.total) if i not in missing))
            assert code.rebuild(left, missing, 10007) == some(fragments, missing)


@given(st.sampled_from(PROFILES), st.integers(1, 20000), st.data())
def test_ranges_of_the_data_lie_in_the_fragments_as_they_are(
    text: str, size: int, draw: st.DataObject
) -> None:
    code, data = CODES[text], pattern(size)
    offset = draw.draw(st.integers(0, size))
    length = draw.draw(st.integers(0, size - offset))
    fragments = code.encode(data)
    ranges = code.ranges(offset, length, size)
    found = b"".join(fragments[index][start : start + taken] for index, start, taken in ranges)
    assert found == data[offset : offset + length]
    assert all(index < code.profile.k for index, _, _ in ranges)


@pytest.mark.parametrize("code", CODES.values(), ids=PROFILES)
@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, -1), (5, 6), (11, 0)])
def test_ranges_outside_are_refused(code: ErasureCode, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        code.ranges(offset, length, 10)


def test_too_few_fragments_are_refused() -> None:
    fragments = CODES["4+2"].encode(pattern(100))
    with pytest.raises(CorruptError, match="3 fragments, 4 are needed"):
        CODES["4+2"].decode(some(fragments, (0, 2, 5)), 100)
    with pytest.raises(CorruptError, match="no copy"):
        CODES["copies:3"].decode({}, 100)


@given(st.integers(0, 79), st.integers(1, 255), st.integers(0, 5))
def test_a_forged_header_is_never_decoded_to_wrong_bytes(position: int, mask: int, index: int) -> None:
    code, data = CODES["4+2"], pattern(1000)
    fragments = code.encode(data)
    forged = bytearray(fragments[index])
    forged[position] ^= mask
    good = [i for i in range(6) if i != index][2:]
    decoded = None
    with suppress(CorruptError):
        decoded = code.decode({index: bytes(forged), **some(fragments, tuple(good))}, 1000)
    assert decoded in (None, data)


@pytest.mark.parametrize("change", [slice(0, 4), slice(4, 8), slice(12, 20), slice(54, 55), slice(59, 63)])
def test_a_header_of_another_fragment_or_size_is_refused(change: slice) -> None:
    fragments = CODES["4+2"].encode(pattern(1000))
    forged = bytearray(fragments[1])
    forged[change] = b"\x7f" * (change.stop - change.start)
    with pytest.raises(CorruptError, match="header of fragment 1"):
        CODES["4+2"].decode({1: bytes(forged), **some(fragments, (0, 4, 5))}, 1000)


def test_a_fragment_of_another_length_is_refused() -> None:
    fragments = CODES["4+2"].encode(pattern(1000))
    with pytest.raises(CorruptError, match="has 329 bytes, not 330"):
        CODES["4+2"].decode({0: fragments[0][:-1], **some(fragments, (1, 2, 3))}, 1000)
