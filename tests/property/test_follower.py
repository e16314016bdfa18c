"""One follower: opening and fsck's check of the log say the same of the same log, whatever is wrong with it.

The logs are made by hand and then changed in one place: by who has the drive's keys (other operations,
another envelope) and by who has not (bits of a payload).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.commits.authority_format import encode_authority
from backend.commits.commit_format import commit_hash, payload_associated_data, signed
from backend.errors import CorruptError, DriveError
from backend.keys.key_ring import KeyRing
from backend.system import verifying_key
from backend.upstream import NO_COMMIT, BlockId, Commit, KeyEpoch
from cache.local.local_state import NAMESPACE_FILE, LocalState
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    ROOT_INODE,
    AddDevice,
    Create,
    Delete,
    NewEpoch,
    Operation,
    Pin,
    Rename,
    RevokeDevice,
    SetAttributes,
    SetExtents,
    SetWriter,
    Unlink,
    encode,
)
from cache.opening import open_drive
from cache.publish.commit_payload import seal_operations
from cache.publish.key_epochs import epoch_begun
from cache.sync.check_log import LogReplay, differences
from tests.drives import DRIVE_ID, KEYS, QUIET
from tests.memory_upstream import MemoryUpstream
from tests.property.any_operation import BLOCK, OPERATIONS

DEVICE = 1
RING = KeyRing(DRIVE_ID, KEYS)
FIRST = RING.next_after(None)
RING.learn_all([FIRST])
NEXT = RING.next_after(FIRST)
KEY = RING.newest.commit
NEXT_KEY = RING.opened(NEXT.number, NEXT.wrapped).commit
SIGNING_KEY = b"s" * 32
OTHER = b"c" * 32
Log = list[tuple[Commit, bytes]]


@dataclass(frozen=True)
class Draft:
    """A commit to be made: what it says, and what of it is changed afterwards."""

    operations: tuple[bytes, ...]
    added: tuple[bytes, ...] = ()
    time_ns: int = 0
    number: int = 0
    previous: bytes = b""
    key: bytes = field(default=KEY)
    flipped: int = -1
    device: int = DEVICE
    sequence: int = 0
    key_epoch: int = 1
    authority: bytes | None = None
    signing_key: bytes = field(default=SIGNING_KEY, repr=False)


def draft(*operations: Operation) -> Draft:
    used = {extent[2] for each in operations if isinstance(each, SetExtents) for extent in each.extents}
    return Draft(tuple(map(encode, operations)), tuple(sorted(used)))


GOOD = (
    draft(AddDevice(DEVICE, verifying_key(SIGNING_KEY), b"host"), NewEpoch(*FIRST)),
    draft(
        SetWriter(DEVICE, b"host"),
        Create(ROOT_INODE, b"f", 2, 0o100644, 0, 0, 0, b"", 1),
        SetAttributes(2, size=9),
        SetExtents(2, 0, ((0, 9),), ((0, 9, BLOCK, 0),)),
    ),
    draft(Create(ROOT_INODE, b"d", 3, 0o40755, 0, 0, 0, b"", 1), Pin(b"p", 2)),
    draft(
        Rename(ROOT_INODE, b"f", 3, b"f", 2, 0, False, 2), SetExtents(2, 2, ((0, 4),), ((0, 4, OTHER, 0),))
    ),
    draft(Unlink(3, b"f", 2, 3), Delete(2)),
)


def made(drafts: list[Draft]) -> Log:
    """The log of these drafts: each goes on from the one before, unless it says otherwise."""
    found: Log = []
    for index, each in enumerate(drafts, 1):
        previous = each.previous or (found[-1][1] if found else NO_COMMIT)
        added = tuple(map(BlockId, each.added))
        number, time_ns = each.number or index, each.time_ns or index
        commit = Commit(number, previous, each.device, 1, time_ns, added, (), b"", each.sequence or index)
        said = encode_authority(epoch_begun(each.operations))
        authority = said if each.authority is None else each.authority
        commit = replace(commit, key_epoch=each.key_epoch, authority=authority)
        binding = payload_associated_data(DRIVE_ID, commit)
        payload = bytearray(seal_operations(each.key, each.operations, binding))
        if each.flipped >= 0:
            payload[each.flipped % len(payload)] ^= 1 << each.flipped % 8
        commit = signed(DRIVE_ID, replace(commit, payload=bytes(payload)), each.signing_key)
        found.append((commit, commit_hash(commit)))
    return found


Change = Callable[[Draft], Draft]
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.tuples(OPERATIONS, st.integers(0, 4)).map(
        lambda new: (
            lambda d: replace(
                d, operations=(*d.operations[: new[1]], encode(new[0]), *d.operations[new[1] :])
            )
        )
    ),
    st.integers(0, 3).map(
        lambda at: lambda d: replace(d, operations=d.operations[:at] + d.operations[at + 1 :])
    ),
    st.just(lambda d: replace(d, operations=d.operations[::-1])),
    st.binary(max_size=5).map(lambda bytes_: lambda d: replace(d, operations=(*d.operations, bytes_))),
    st.sampled_from([(), (BLOCK,), (OTHER,), (BLOCK, OTHER)]).map(
        lambda added: lambda d: replace(d, added=added)
    ),
    st.sampled_from([0, 1, 2, 5, 1 << 63, (1 << 64) - 1]).map(
        lambda time_ns: lambda d: replace(d, time_ns=time_ns)
    ),
    st.integers(0, 5).map(lambda number: lambda d: replace(d, number=number)),
    st.just(lambda d: replace(d, previous=bytes(31) + b"x")),
    st.just(lambda d: replace(d, key=bytes(32))),
    st.integers(0, 10_000).map(lambda flipped: lambda d: replace(d, flipped=flipped)),
    st.just(lambda d: d),
)


def verdict_of_fsck(log: Log, path: Path) -> tuple[int, str, str]:
    """How many commits were applied, and what was said of the next."""
    replay = LogReplay(path, KeyRing(DRIVE_ID, KEYS))
    try:
        for commit, digest in log:
            replay.apply(commit, digest)
        trio.run(replay.export, path.with_suffix(".state"))
    except DriveError as error:
        return replay.head.number, type(error).__name__, str(error)
    finally:
        replay.close()
    return replay.head.number, "", ""


async def verdict_of_opening(log: Log, folder: Path) -> tuple[int, str, str]:
    upstream = MemoryUpstream()
    upstream.commits = log
    local = LocalState(folder)
    try:
        await open_drive(local, upstream, DRIVE_ID, KEYS, replace(QUIET, read_only=True))
    except DriveError as error:
        return local.ledger.head.number, type(error).__name__, str(error)
    finally:
        head = local.ledger.head
        local.close()
    return head.number, "", ""


def check_same(log: Log) -> str:
    """Both say the same; what."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        number, kind, text = verdict_of_fsck(log, folder / "replay.db")
        found = trio.run(verdict_of_opening, log, folder / "state")
        assert found[:2] == (number, kind)
        assert found[2].startswith(text)
        if not kind:
            assert differences(folder / "replay.state", folder / "state" / NAMESPACE_FILE) == []
        return kind


@settings(max_examples=40)
@given(at=st.integers(0, len(GOOD) - 1), change=CHANGES)
@example(0, lambda d: replace(d, added=()))
def test_opening_and_fsck_say_the_same_of_a_log(at: int, change: Change) -> None:
    drafts = list(GOOD)
    drafts[at] = change(drafts[at])
    check_same(made(drafts))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: d, ""),
        (lambda d: replace(d, added=(BLOCK, OTHER)), ""),
        (lambda d: replace(d, added=(BLOCK,)), "MalformedError"),
        (lambda d: replace(d, flipped=77), "MalformedError"),
        (lambda d: replace(d, key=bytes(32)), "MalformedError"),
        (lambda d: replace(d, operations=(b"\x91\x63",)), "MalformedError"),
        (lambda d: replace(d, operations=(encode(SetAttributes(2, size=-1)),)), "MalformedError"),
        (lambda d: replace(d, operations=(encode(Delete(7)),)), "OutOfDateError"),
        (lambda d: replace(d, operations=(encode(SetExtents(2, 3, ((0, 4),), ())),)), "OutOfDateError"),
        (lambda d: replace(d, operations=(encode(SetExtents(2, 2, ((0, 4),), ())),)), "OutOfDateError"),
        (lambda d: replace(d, time_ns=1), "OutOfDateError"),
        (lambda d: replace(d, time_ns=(1 << 64) - 1), "MalformedError"),
        (lambda d: replace(d, previous=bytes(31) + b"x"), "RollbackError"),
        (lambda d: replace(d, number=5), "RollbackError"),
        (lambda d: replace(d, device=DEVICE + 1), "MalformedError"),
        (lambda d: replace(d, device=DEVICE + 1, sequence=1), "MalformedError"),
        (lambda d: replace(d, sequence=3), "MalformedError"),
        (lambda d: replace(d, sequence=5), "MalformedError"),
        (lambda d: replace(d, sequence=(1 << 64) - 1), "MalformedError"),
        (lambda d: replace(d, key_epoch=2), "MalformedError"),
        (lambda d: replace(d, authority=b"somebody"), "MalformedError"),
    ],
)
def test_what_both_say(change: Change, kind: str) -> None:
    """Of the fourth commit; without its rename the fifth does not fit."""
    assert check_same(made([*GOOD[:3], change(GOOD[3]), GOOD[4]])) == kind


SECOND = Draft(
    (encode(AddDevice(2, verifying_key(OTHER), b"other")),), device=2, sequence=1, signing_key=OTHER
)


def later(draft: Draft) -> Draft:
    """The same, of the second key epoch."""
    return replace(draft, key_epoch=2, key=NEXT_KEY)


def after_the_first(drafts: list[Draft]) -> list[Draft]:
    """These after the commit that adds device 1 and begins epoch 1, whose own ones count on."""
    ours = 1
    numbered = [GOOD[0]]
    for each in drafts:
        ours += each.device == DEVICE
        numbered.append(replace(each, sequence=each.sequence or ours))
    return numbered


REVOKED = later(draft(RevokeDevice(2), NewEpoch(*NEXT)))


@pytest.mark.parametrize(
    ("drafts", "kind"),
    [
        ([SECOND], ""),
        ([SECOND, replace(SECOND, operations=(), sequence=2)], ""),
        ([SECOND, REVOKED], ""),
        # By a key that is not the one it adds, and by somebody else for it.
        ([replace(SECOND, signing_key=SIGNING_KEY)], "MalformedError"),
        ([replace(SECOND, device=DEVICE, sequence=2, signing_key=SIGNING_KEY)], ""),
        # A device that does not add itself first of all, one that adds another, one that is there already.
        ([replace(SECOND, operations=(encode(SetWriter(2, b"x")), *SECOND.operations))], "MalformedError"),
        ([replace(SECOND, device=3)], "MalformedError"),
        ([replace(SECOND, operations=())], "MalformedError"),
        ([SECOND, replace(SECOND, sequence=2)], "OutOfDateError"),
        # After it was revoked, in no way.
        ([SECOND, REVOKED, later(replace(SECOND, operations=(), sequence=2))], "MalformedError"),
        ([SECOND, REVOKED, later(SECOND)], "MalformedError"),
        ([SECOND, REVOKED, later(replace(SECOND, sequence=2))], "MalformedError"),
        ([SECOND, REVOKED, later(replace(SECOND, device=3))], "MalformedError"),
    ],
)
def test_who_may_make_a_commit(drafts: list[Draft], kind: str) -> None:
    assert check_same(made(after_the_first(drafts))) == kind


FORK = RING.next_after(RING.next_after(None))
NEW = replace(draft(NewEpoch(*NEXT)), key_epoch=2, key=NEXT_KEY)
FORKED = replace(draft(NewEpoch(*FORK)), key_epoch=2, key=RING.opened(FORK.number, FORK.wrapped).commit)
FOREIGN = KeyEpoch(2, b"f" * 60, NEXT.before)


@pytest.mark.parametrize(
    ("drafts", "kind"),
    [
        ([NEW], ""),
        ([NEW, later(GOOD[1])], ""),
        # Of an earlier epoch, or of one to come.
        ([NEW, GOOD[1]], "MalformedError"),
        ([later(GOOD[1])], "MalformedError"),
        ([replace(GOOD[1], key_epoch=0)], "MalformedError"),
        # One that begins with it, and that it is not of; one that is not the next, or is there.
        ([replace(NEW, key_epoch=1)], "MalformedError"),
        ([replace(NEW, key_epoch=1, key=KEY)], "MalformedError"),
        ([NEW, NEW], "MalformedError"),
        ([replace(draft(NewEpoch(*FIRST)), key_epoch=1)], "MalformedError"),
        # Envelope and payload say different things.
        ([replace(NEW, authority=b"")], "MalformedError"),
        ([replace(GOOD[1], authority=encode_authority(NEXT))], "MalformedError"),
        ([replace(later(GOOD[1]), authority=encode_authority(NEXT))], "MalformedError"),
        ([replace(NEW, authority=encode_authority(NEXT) + b"x")], "MalformedError"),
        ([replace(NEW, authority=encode_authority(FOREIGN))], "MalformedError"),
        ([replace(NEW, operations=NEW.operations * 2)], "MalformedError"),
        # Whoever is given the key of the new one could not open the one before.
        ([FORKED], "MalformedError"),
        # A device is revoked, and all goes on under the keys that it has.
        ([SECOND, draft(RevokeDevice(2))], "MalformedError"),
        ([SECOND, REVOKED, later(GOOD[1])], ""),
    ],
)
def test_under_which_key_epoch_a_commit_is(drafts: list[Draft], kind: str) -> None:
    assert check_same(made(after_the_first(drafts))) == kind


def test_a_log_that_begins_without_a_key_epoch_is_refused() -> None:
    first = draft(AddDevice(DEVICE, verifying_key(SIGNING_KEY), b"host"))
    assert check_same(made([first])) == "MalformedError"
    assert check_same(made([replace(first, key_epoch=0)])) == "MalformedError"


def test_the_newest_commit_of_a_device_vouches_for_those_before_it_that_are_applied_with_it(
    tmp_path: Path,
) -> None:
    """Where nobody vouches, and in fsck, each has to be signed itself."""
    unsigned = [*GOOD[:3], replace(GOOD[3], signing_key=bytes(32))]
    assert check_same(made(unsigned)) == "MalformedError"
    vouched = made([*unsigned, GOOD[4]])
    assert trio.run(verdict_of_opening, vouched, tmp_path / "state")[:2] == (5, "")
    assert verdict_of_fsck(vouched, tmp_path / "replay.db")[:2] == (3, "MalformedError")
    other = made([*unsigned, replace(SECOND, operations=(encode(AddDevice(2, verifying_key(OTHER), b"o")),))])
    assert trio.run(verdict_of_opening, other, tmp_path / "other")[1] == "MalformedError"
    assert Namespace(str(tmp_path / "other" / NAMESPACE_FILE)).head().number == 0


def test_damage_of_the_namespace_is_not_told_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it would look for the damage in the log."""
    damage = CorruptError("the namespace database is damaged")

    def fail(*_: object) -> None:
        raise damage

    replay = LogReplay(tmp_path / "replay.db", KeyRing(DRIVE_ID, KEYS))
    monkeypatch.setattr(Namespace, "apply", fail)
    with pytest.raises(CorruptError) as raised:
        replay.apply(*made([*GOOD])[0])
    replay.close()
    assert raised.value is damage
