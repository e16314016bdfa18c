"""The form of a presence: what a hub sees of it, and what it cannot make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError
from backend.keys import DriveKeys
from backend.system import keyed_hash, seal
from backend.upstream import SealedPresence
from backend.wire import PRESENCE_SIZE
from cache.presence import Activity, PresenceCodec, Present, sentence
from cache.presence.form import MAX_HOST, MAX_PATH
from tests.drives import DRIVE_ID, KEYS

CODEC = PresenceCodec(KEYS)
SOME = Present(Activity.EDITING, 3, 77, 10**18, 10**18 + 5, 1000, b"laptop", "Bücher/plan.odt".encode())
WORDS = st.integers(0, (1 << 62) - 1)
PRESENTS = st.builds(
    Present,
    st.sampled_from(Activity),
    st.integers(1, 1 << 22),
    WORDS,
    WORDS,
    WORDS,
    WORDS,
    st.binary(),
    st.binary(),
)


@given(PRESENTS)
def test_who_has_the_key_reads_what_was_said(present: Present) -> None:
    sealed = CODEC.seal(present)
    assert len(sealed.body) == PRESENCE_SIZE
    cut = replace(present, host=present.host[:MAX_HOST], path=present.path[-MAX_PATH:])
    assert CODEC.open(sealed) == cut


def by_the_spec(version: int = 1, activity: int = 1, since: int = 10**18) -> SealedPresence:
    """`SOME`, or what is like it, as docs/format/presence.md lays it out."""
    host, path = b"laptop", "Bücher/plan.odt".encode()
    numbers = [(version, 1), (activity, 1), (3, 4), (77, 8), (since, 8), (10**18 + 5, 8), (1000, 8)]
    lengths = [(len(host), 1), (len(path), 2)]
    head = b"".join(number.to_bytes(size, "little") for number, size in numbers + lengths)
    key = keyed_hash(KEYS.presence_id, bytes([activity]) + (77).to_bytes(8, "little"))
    plain = (head + host + path).ljust(484, b"\0")
    return SealedPresence(key, seal(KEYS.presence, plain, b"drivefs presence 1\0" + key))


def test_the_form_is_that_of_the_spec() -> None:
    assert CODEC.open(by_the_spec()) == SOME
    assert CODEC.seal(SOME).key == by_the_spec().key


def test_what_the_spec_does_not_know_is_refused() -> None:
    with pytest.raises(FormatError, match="version 2"):
        CODEC.open(by_the_spec(version=2))
    with pytest.raises(CorruptError, match="activity 3"):
        CODEC.open(by_the_spec(activity=3))
    with pytest.raises(CorruptError, match="no moment"):
        CODEC.open(by_the_spec(since=1 << 62))


def test_a_long_path_keeps_its_end() -> None:
    path = b"folder/" * 200 + b"plan.odt"
    assert CODEC.open(CODEC.seal(replace(SOME, path=path))).path == path[-MAX_PATH:]


def test_the_key_is_of_the_file_and_of_what_is_done_and_tells_neither() -> None:
    keys = {
        CODEC.seal(replace(SOME, activity=each, inode=inode)).key for each in Activity for inode in (1, 2)
    }
    assert len(keys) == 4
    assert CODEC.seal(SOME).key == CODEC.seal(replace(SOME, device=4, time_ns=1)).key
    other_drive = PresenceCodec(DriveKeys(bytes(range(32)), DRIVE_ID[::-1]))
    assert other_drive.seal(SOME).key != CODEC.seal(SOME).key
    assert b"plan" not in CODEC.seal(SOME).body


def test_nobody_without_the_key_makes_or_changes_one() -> None:
    sealed, other = CODEC.seal(SOME), CODEC.seal(replace(SOME, inode=78))
    for at in range(0, PRESENCE_SIZE, 7):
        changed = bytearray(sealed.body)
        changed[at] ^= 1
        with pytest.raises(CorruptError):
            CODEC.open(SealedPresence(sealed.key, bytes(changed)))
    foreign = PresenceCodec(DriveKeys(bytes(32), DRIVE_ID)).seal(SOME)
    for each in (
        SealedPresence(other.key, sealed.body),
        foreign,
        SealedPresence(sealed.key, bytes(PRESENCE_SIZE)),
    ):
        with pytest.raises(CorruptError):
            CODEC.open(each)


def test_a_name_does_nothing_to_a_terminal() -> None:
    said = sentence(replace(SOME, host=b"lap\x1b[2Jtop\n\xff"))
    assert said.isprintable()
    assert said.startswith("open for writing on lap?[2Jtop?")
    assert said.endswith("(device 3) since 2001-09-09T01:46:40Z")
