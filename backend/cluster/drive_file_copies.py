"""Writing the copies of `drive.toml`: on the nodes first, in the drive's folder last (`check_nodes` says what
a change that is interrupted leaves). Blocks on the disks and stores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from backend.cluster import drive_file
from backend.cluster.check_nodes import Survey, answers_as_member, own_place
from backend.cluster.drive_file import FILE_NAME, DriveFile
from backend.errors import ConflictError, UnavailableError
from backend.failpoints import declare
from backend.nodes import NodeEntry, NodePlace
from backend.system import THIS_MACHINE, ask

NODES_WRITTEN: Final = declare(
    "drive-file.nodes-written", "the nodes have the new drive.toml; the drive's folder has the old one"
)

_CHANGED: Final = "it is not as it was seen a moment ago"


def write_copies(folder: str, file: DriveFile) -> list[str]:
    """Write `drive.toml` on the nodes that are there, then in the drive's folder; what could not be written,
    one line for each node. `OSError` if the drive's folder itself cannot be written. Idempotent."""
    failed = []
    for entry in file.nodes:
        try:
            if _is_there(folder, entry, file):
                entry.place(folder).write(FILE_NAME, drive_file.encode(file))
            else:
                failed.append(_not_there(entry))
        except OSError as error:
            failed.append(f"{entry.name}: {FILE_NAME} could not be written: {error.strerror}")
    THIS_MACHINE.failpoints.reached(NODES_WRITTEN)
    drive_file.save(os.path.join(folder, FILE_NAME), file)
    return failed


def replace_copies(folder: str, seen: Survey, new: DriveFile, lost: Collection[NodeEntry] = ()) -> list[str]:
    """As `write_copies`, each copy where it is still as it was `seen`. A new map must come to a majority of
    the voters that it has, and of those before it, before the drive's folder has it (docs/format/lease.md).
    `ConflictError` if somebody else changed copies meanwhile, `UnavailableError` if too few voters can be
    told: then the drive's folder has the map that it had, and who changes it next finishes this change or
    takes it back. `OSError`. The nodes `lost` of the map before are lost for good: none is waited for. A
    place that does not answer within `patience.SECONDS` is not waited for either: the copy may come to it
    later, where it is still as it was seen. Idempotent."""
    told = (*new.nodes, *_let_go(seen.file, new))
    before = replace(seen.file, nodes=tuple(entry for entry in seen.file.nodes if entry not in lost))
    answering = ask({entry: partial(_is_there, folder, entry, new) for entry in told})
    lacking = {entry: _not_there(entry) for entry in told if not answering.get(entry)}
    _require_majorities(folder, before, new, lacking)
    lacking |= _not_replaced(folder, seen, [entry for entry in told if entry not in lacking], new)
    _require_majorities(folder, before, new, lacking)
    THIS_MACHINE.failpoints.reached(NODES_WRITTEN)
    _replace_own(folder, seen, new)
    return [lacking[entry] for entry in new.nodes if entry in lacking]


def mend_copy(place: NodePlace, seen: Survey) -> bool:
    """Put the drive file that counts where another copy, or none, was `seen`; False if that is not so any
    more. What cannot be read is written over. For who has the lease on the voters of that file: the copy may
    be of a later map. `OSError`."""
    data = drive_file.encode(seen.file)
    try:
        place.read(FILE_NAME, drive_file.MAX_SIZE)
    except OSError:
        place.write(FILE_NAME, data)
        return True
    return _replace(place, seen.copies[place], data)


def _replace(place: NodePlace, expected: bytes | None, data: bytes) -> bool:
    """As `NodePlace.replace`. What is too large for a drive file was seen in part only, and is nobody's newer
    one: it is written over."""
    if expected is not None and len(expected) > drive_file.MAX_SIZE:
        place.write(FILE_NAME, data)
        return True
    return place.replace(FILE_NAME, expected, data)


def _not_replaced(
    folder: str, seen: Survey, told: Sequence[NodeEntry], new: DriveFile
) -> dict[NodeEntry, str]:
    """Have all of them told at once; one line for each that does not have the new copy."""
    answers = ask({entry: partial(_why_not_replaced, folder, seen, entry, new) for entry in told})
    silent = f"does not answer, so it may have no new {FILE_NAME}"
    found = {entry: answers.get(entry, f"{entry.name}: {silent}") for entry in told}
    return {entry: why for entry, why in found.items() if why}


def _replace_own(folder: str, seen: Survey, new: DriveFile) -> None:
    """The copy in the drive's folder, which is the last."""
    own = own_place(folder)
    answers = ask({own: partial(_replace, own, seen.copies.get(own), drive_file.encode(new))})
    if own not in answers:
        raise UnavailableError(
            f"{folder}: does not answer, so it may have no new {FILE_NAME}; the nodes have it, and the next "
            "change of them finishes this one",
            (),
        )
    if not answers[own]:
        raise _changed_meanwhile(folder)


def _is_there(folder: str, entry: NodeEntry, file: DriveFile) -> bool:
    return answers_as_member(entry.place(folder), entry, file.id)


def _not_there(entry: NodeEntry) -> str:
    return f"{entry.name}: not there, so it has no new {FILE_NAME}"


def _why_not_replaced(folder: str, seen: Survey, entry: NodeEntry, new: DriveFile) -> str:
    """One line; empty: the node has the new copy."""
    place = entry.place(folder)
    try:
        there = place.read(FILE_NAME, drive_file.MAX_SIZE)
        is_done = there == seen.copies.get(place, there) and _replace(place, there, drive_file.encode(new))
    except OSError as error:
        return f"{entry.name}: {FILE_NAME} could not be written: {error.strerror}"
    return "" if is_done else f"{entry.name}: {_CHANGED}"


def _let_go(before: DriveFile, new: DriveFile) -> list[NodeEntry]:
    """The voters of the one that are in no place of the other: they are told too."""
    kept = {entry.url for entry in new.nodes}
    return [entry for entry in _voters(before) if entry.url not in kept]


def _voters(file: DriveFile) -> list[NodeEntry]:
    return [entry for entry in file.nodes if entry.votes]


def _require_majorities(
    folder: str, before: DriveFile, new: DriveFile, lacking: Mapping[NodeEntry, str]
) -> None:
    """If `new` has another map: of its voters and of those before it."""
    if new.epoch != before.epoch:
        for voters in (_voters(before), _voters(new)):
            _require_majority(folder, voters, lacking)


def _require_majority(folder: str, voters: Sequence[NodeEntry], lacking: Mapping[NodeEntry, str]) -> None:
    urls = {entry.url: why for entry, why in lacking.items()}
    without = {entry.name: urls[entry.url] for entry in voters if entry.url in urls}
    if 2 * len(without) < len(voters):
        return
    if any(why.endswith(_CHANGED) for why in without.values()):
        raise _changed_meanwhile(folder)
    raise UnavailableError(
        f"{folder}: its nodes are not changed, as of {len(voters)} that vote too few can be told: "
        f"{'; '.join(without.values())}",
        sorted(without),
    )


def _changed_meanwhile(folder: str) -> ConflictError:
    return ConflictError(f"{folder}: the drive's nodes were changed just now; try again")
