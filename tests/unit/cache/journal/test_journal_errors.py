"""The journal among calls that fail at any point: what was refused is not there, what was accepted is, and
only an fsync whose outcome is unknown ends it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.system import Environment
from backend.system.durable import Durable
from cache.errors import FileSystemError, InputOutputError, NoSpaceLeftError
from cache.journal.format import RecordType, decode_bulk
from cache.journal.journal import Journal
from tests.changing_disk import ChangingDisk, exchanged

SEGMENT = 4096
MOMENTARY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR)
CALLS = ("open", "write", "preallocate", "rename")


@dataclass
class Short(Durable):
    """Fails the calls of those names with those errors, in turn; None lets one through."""

    errors: list[int | None] = field(default_factory=list)
    calls: tuple[str, ...] = CALLS

    def _meet(self, call: str) -> None:
        if call in self.calls and self.errors:
            number = self.errors.pop(0)
            if number is not None:
                raise OSError(number, os.strerror(number))

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        self._meet("open")
        return super().open(path, flags, mode, folder=folder)

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self._meet("write")
        return super().write(descriptor, parts, offset)

    def preallocate(self, descriptor: int, size: int) -> None:
        self._meet("preallocate")
        super().preallocate(descriptor, size)

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        self._meet("rename")
        super().rename(old, new, folder=folder)

    def sync_data(self, descriptor: int) -> None:
        self._meet("sync_data")
        super().sync_data(descriptor)


def read_back(folder: Path) -> list[bytes]:
    """What a later process finds: records, and the bytes of large writes."""
    journal = Journal(folder, SEGMENT)
    found = []
    for record in journal.replay():
        if record.kind is RecordType.BULK:
            bulk = decode_bulk(record.payload)
            assert journal.holds(bulk)
            found.append(journal.read_at(bulk.position, bulk.length))
        else:
            found.append(bytes(record.payload))
    journal.close()
    return found


async def _live(folder: Path, steps: list[tuple[str, int, list[int | None]]]) -> list[bytes]:
    """Do the steps, each with errors on its way, and then one of each kind without: what was accepted."""
    accepted: list[bytes] = []
    disk = Short()
    journal = Journal(folder, SEGMENT, environment=Environment(disk))
    try:
        list(journal.replay())
        journal.start(1)
        for step, size, errors in [*steps, ("record", 3000, []), ("bulk", 3000, []), ("sync", 0, [])]:
            disk.errors = list(errors)
            data = bytes([len(accepted) % 251]) * size
            try:
                if step == "record":
                    journal.append(RecordType.DATA, (data,), 1)
                elif step == "bulk":
                    journal.append_bulk(1, 0, 0, data, 1)
                else:
                    await journal.sync()
            except FileSystemError:
                assert errors, "refused without a reason"
            else:
                accepted += [data] * (step != "sync")
    finally:
        journal.close()
    return accepted


STEPS = st.tuples(
    st.sampled_from(["record", "record", "bulk", "sync"]),
    st.integers(1, 2 * SEGMENT),
    st.lists(st.sampled_from([None, None, *MOMENTARY]), max_size=6),
)


@given(st.lists(STEPS, max_size=15))
def test_only_what_was_refused_is_missing_whatever_failed(
    steps: list[tuple[str, int, list[int | None]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        accepted = trio.run(_live, Path(folder), steps)
        assert read_back(Path(folder)) == accepted


@pytest.mark.parametrize("number", MOMENTARY)
@pytest.mark.parametrize("call", ["open", "write", "preallocate"])
async def test_a_call_that_failed_is_no_poison(tmp_path: Path, call: str, number: int) -> None:
    journal = Journal(tmp_path, SEGMENT, environment=Environment(ChangingDisk()))
    list(journal.replay())
    journal.start(1)
    journal.append(RecordType.DATA, (bytes(SEGMENT),), 1)  # the next one needs a segment more
    full = number in (errno.ENOSPC, errno.EDQUOT)
    refused = pytest.raises(NoSpaceLeftError if full else InputOutputError, match="nothing was accepted")
    with exchanged(journal.environment, Short([number], (call,))), refused:
        journal.append(RecordType.DATA, (b"refused",), 1)
    journal.append(RecordType.DATA, (b"goes on",), 1)
    await journal.sync()
    journal.close()
    assert read_back(tmp_path) == [bytes(SEGMENT), b"goes on"]


async def test_a_sync_that_could_not_begin_is_made_up_for(tmp_path: Path) -> None:
    """No descriptor is free to open the folder with: nothing is lost, and nothing counts as synced."""
    journal = Journal(tmp_path, SEGMENT, environment=Environment(ChangingDisk()))
    list(journal.replay())
    journal.start(1)
    journal.append(RecordType.DATA, (b"kept",), 1)
    disk = Short([errno.EMFILE], ("open",))
    with exchanged(journal.environment, disk):
        with pytest.raises(InputOutputError, match="Too many open files"):
            await journal.sync()
        disk.errors, disk.calls = [None] * 100, ("sync_data", "open")
        await journal.sync()
        assert len(disk.errors) < 100 - 1, "neither the records nor the folder were synced again"
    journal.append(RecordType.DATA, (b"goes on",), 1)
    journal.close()


@pytest.mark.logs_warnings
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM])
async def test_an_fsync_that_failed_is_the_end(tmp_path: Path, number: int) -> None:
    journal = Journal(tmp_path, SEGMENT, environment=Environment(ChangingDisk()))
    list(journal.replay())
    journal.start(1)
    journal.append(RecordType.DATA, (b"kept",), 1)
    with exchanged(journal.environment, Short([number], ("sync_data",))):
        with pytest.raises(InputOutputError, match="mount again"):
            await journal.sync()
        for _ in range(2):
            with pytest.raises(InputOutputError):
                await journal.sync()
            with pytest.raises(InputOutputError):
                journal.append(RecordType.DATA, (b"refused",), 1)
    journal.close()
    assert read_back(tmp_path) == [b"kept"]
