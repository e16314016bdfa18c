"""Checking what lies beside the data of a drive: `drive.toml` with its copies, and the nodes' identities.

`drive.toml` lies in the drive's folder and on every node. Who changes it (`drive_file_copies`) changes the
nodes first and the drive's folder last, so what most copies say is what the last finished change wrote, and
a change that was interrupted is either finished or taken back. Where only the paths of nodes differ, the
drive's folder is right (a person moved a disk), provided that its paths lead to these nodes. Functions here
block on the disk; one that does not answer counts as away (`backend.system.patience`).

These copies vote on what the drive file says: those of the drive's folder, of the nodes that it names, and
of the folders that a person named; each folder once. If the drive's folder has no copy that can be read,
those of the folders in it vote. A place that only another copy names has no vote, else one node could bring
any number; a folder in the drive's folder that was a node once has none either. (The voters of the lease are
another thing.)

A map that `drivefs node recover` made gives up a majority of the voters before it. So as long as the drive's
folder has the map before, that stays in force if the majority answers after all: what was stored since is
there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from backend.cluster import check_places, drive_file
from backend.cluster.drive_file import FILE_NAME, DriveFile
from backend.cluster.recovery import AHEAD
from backend.commits import KEY as LEASE
from backend.errors import DriveError, FormatError, NodeError, NotFoundError, UnavailableError
from backend.nodes import (
    IDENTITY_FILE,
    MAX_FILE_SIZE,
    OWN_FILES,
    DirectoryPlace,
    NodeEntry,
    NodeIdentity,
    NodePlace,
    Whereabouts,
    encode_identity,
    place_at,
)
from backend.packs import FOOTER_SIZE, decode_footer, parse_fragment_key
from backend.system import ask


@dataclass(frozen=True, slots=True)
class Survey:
    """The drive file that counts, and the places of copies that are not it: each with one line. `copies`: of
    the drive's folder and of the places of its nodes, as far as they answer."""

    file: DriveFile
    wrong: tuple[tuple[NodePlace, str], ...]
    copies: Mapping[NodePlace, bytes | None] = field(repr=False)


class _Look(NamedTuple):
    """The answer of one place: None if there is no such place; and its copy."""

    itself: Whereabouts | None
    copy: bytes | None


@dataclass(frozen=True, slots=True)
class WrongIdentity:
    """A node whose identity file is not as it must be. `is_ours`: its folder holds this drive's data, and
    nothing says that it is another node, so its identity may be written anew."""

    entry: NodeEntry
    place: NodePlace
    text: str
    is_ours: bool


def survey(folder: str, nodes: Sequence[str] = ()) -> Survey:
    """Look at all copies that can be found from the drive's folder, and at the places with the URLs `nodes`.
    `NotFoundError` if there is no copy at all, `FormatError` if none can be understood, `UnavailableError` if
    none can and places do not answer. Each place is asked once, so that one that hangs is waited for once."""
    voting = _voting_places(folder, nodes)
    found = _looked_at(voting)
    votes = _votes(found)
    readable = {place: file for place, data in votes.items() if (file := _decoded(data)) is not None}
    if not readable:
        raise _nothing_readable(folder, votes, [place for place in voting if place not in found])
    file = _chosen(folder, readable, votes)
    expected = drive_file.encode(file)
    members = sorted({own_place(folder), *(entry.place(folder) for entry in file.nodes)}, key=str)
    found |= _looked_at(place for place in members if place not in voting)
    copies = {place: found[place].copy for place in members if place in found and found[place].itself}
    wrong = [(place, _what_is_wrong(data)) for place, data in copies.items() if data != expected]
    return Survey(file, tuple(wrong), copies)


def later_copies(file: DriveFile, places: Iterable[NodePlace]) -> list[NodePlace]:
    """The places of nodes that have a later map of the drive than `file`, unless more have this one: then the
    later one is made up, or of a change that was interrupted. Blocks, not for long."""
    found = ask({place: partial(_copy_at, place) for place in places})
    copies = {place: copy for place, data in found.items() if (copy := _decoded(data)) and copy.id == file.id}
    same = sum(copy.epoch == file.epoch for copy in copies.values())
    later = [place for place, copy in copies.items() if copy.epoch > file.epoch]
    return later if len(later) >= same else []


def retire(place: NodePlace, entry: NodeEntry, drive_id: bytes) -> bool:
    """Empty the place of a node that the drive no longer has and that keeps no key; False if it is not
    there. The identity goes first: a process that still knows the node cannot use it any more. Foreign files
    stay. `OSError`."""
    if not _is_member(place, entry, drive_id):
        return False
    place.remove((IDENTITY_FILE, FILE_NAME, LEASE, *OWN_FILES), ("packs", "commits", "roots"))
    return True


def wrong_identities(folder: str, file: DriveFile) -> Iterator[WrongIdentity]:
    """Nodes whose identity file is not byte for byte what it must be; not those whose folder is missing,
    empty or of another drive: these are away. A node that hangs is waited for once."""
    owners = _owners(folder, file)
    there = [entry for entry in file.nodes if entry.name in owners]
    judged = ask({entry: partial(_wrong_identity, folder, file, entry, owners) for entry in there})
    yield from filter(None, judged.values())


def _wrong_identity(
    folder: str, file: DriveFile, entry: NodeEntry, owners: Mapping[str, str]
) -> WrongIdentity | None:
    place = entry.place(folder)
    expected = NodeIdentity(entry.name, file.id, entry.zone)
    stored, unread = _stored_identity(entry, place)
    if stored == encode_identity(expected) or not holds_data_of(place, file.id):
        return None
    try:
        text, found = f"{place}/{IDENTITY_FILE} is not as it was written", place.identity(entry.name)
    except NodeError as error:
        text, found = str(error), expected
    whose = _whose(file, entry, found, owners) or unread
    return WrongIdentity(entry, place, whose or text, whose is None)


def _stored_identity(entry: NodeEntry, place: NodePlace) -> tuple[bytes | None, str | None]:
    """Its bytes, and why they cannot be read. They may name another node, so they are not written over."""
    try:
        return place.read(IDENTITY_FILE, MAX_FILE_SIZE), None
    except OSError as error:
        what = f"{entry.name}: cannot read {place}/{IDENTITY_FILE}: {error.strerror}"
        return None, f"{what}; if it stays so, remove it and mend again"


def _whose(file: DriveFile, entry: NodeEntry, found: NodeIdentity, owners: Mapping[str, str]) -> str | None:
    """The reason why the folder may be another node of the drive; None if nothing says so.

    An identity that names another node is never written over, whatever is in that node's own place, and also
    where `file` has no such node: it may be older than the node. The same folder may be reached by two paths
    in ways that cannot be seen (a server mounted twice), and a node that loses its name is one more that is
    lost."""
    place = f"{entry.name}: its path"
    owner = owners[entry.name]
    if owner != entry.name:
        whose = f"leads to the folder of {owner}" if owner else "and that of another node lead to one folder"
        return f"{place} {whose}: it is left as it is; take the link away, or change the path"
    if found.drive_id == file.id and found.name != entry.name:
        return (
            f"{place} leads to a folder that says it is {found.name}: it is left as it is; "
            f"put it in its place, or if it is {entry.name}, remove its {IDENTITY_FILE} and mend again"
        )
    return None


def _owners(folder: str, file: DriveFile) -> dict[str, str]:
    """By the name of each node whose folder answers: the node that the folder belongs to. Of several paths
    to one folder, the only one that is no link is the owner's; without such a one it is nobody's ("")."""
    found = ask({entry: entry.place(folder).whereabouts for entry in file.nodes})
    there = {entry.name: itself for entry, itself in found.items() if itself is not None}
    owners = {}
    for name, itself in there.items():
        sharing = [other for other, same in there.items() if same.thing == itself.thing]
        direct = [other for other in sharing if not there[other].by_link]
        owners[name] = name if sharing == [name] else direct[0] if len(direct) == 1 else ""
    return owners


def rewrite_identity(wrong: WrongIdentity, drive_id: bytes) -> None:
    """Write the identity file of a node anew. `OSError`."""
    identity = NodeIdentity(wrong.entry.name, drive_id, wrong.entry.zone)
    wrong.place.write(IDENTITY_FILE, encode_identity(identity))


def is_node(place: NodePlace, file: DriveFile) -> bool:
    """Whether the place says that it is a node of the drive. Blocks."""
    try:
        return place.identity(str(place)).drive_id == file.id
    except NodeError:
        return False


def in_the_way(folder: str, place: NodePlace, file: DriveFile) -> list[str]:
    """See `check_places.in_the_way`; nothing where the place is no folder, nor of a folder for which no
    sign speaks: it says that it is a node of the drive, it holds data of it, or the drive's folder names it
    and it is no other drive's. Blocks."""
    try:
        is_ours = is_node(place, file) or holds_data_of(place, file.id) or _is_meant(folder, place, file.id)
        return check_places.in_the_way(place.folder) if is_ours and place.folder else []
    except OSError:
        return []  # it is away, and told to be


def holds_data_of(place: NodePlace, drive_id: bytes) -> bool:
    """Whether the folder holds a copy of the drive's file, or fragments of the drive. However many other
    files are there; no link is followed."""
    copy = _decoded(_copy_at(place))
    if copy is not None and copy.id == drive_id:
        return True
    return any(_drive_of(place, key) == drive_id for key in filter(parse_fragment_key, place.fragments()))


def _is_meant(folder: str, place: NodePlace, drive_id: bytes) -> bool:
    """Whether the drive's own folder names this one as a node, and it does not say that it is another
    drive's."""
    own = _decoded(_copy_at(own_place(folder)))
    if own is None or own.id != drive_id or place not in {entry.place(folder) for entry in own.nodes}:
        return False
    copy = _decoded(_copy_at(place))
    if copy is not None:
        return copy.id == drive_id
    try:
        return place.identity(str(place)).drive_id == drive_id
    except NodeError:
        return True


def _voting_places(folder: str, nodes: Sequence[str]) -> list[NodePlace]:
    """The places whose copies have a vote, the drive's folder first."""
    given = [place_at(url, os.getcwd()) for url in nodes]
    return list(dict.fromkeys([own_place(folder), *given, *_places_of_nodes(folder)]))


def _votes(found: Mapping[NodePlace, _Look]) -> dict[NodePlace, bytes | None]:
    """The copies, each folder's once: that of the first place that leads there."""
    votes: dict[Hashable, tuple[NodePlace, bytes | None]] = {}
    for place, (itself, copy) in found.items():
        votes.setdefault(place if itself is None else itself.thing, (place, copy))
    return dict(votes.values())


def _places_of_nodes(folder: str) -> list[NodePlace]:
    """The nodes' places as the drive's folder says, or those that they may be at if it says nothing."""
    own = _decoded(_copy_at(own_place(folder)))
    if own is not None:
        return [entry.place(folder) for entry in own.nodes]
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [own_place(os.path.join(folder, name)) for name in names]


def _looked_at(places: Iterable[NodePlace]) -> dict[NodePlace, _Look]:
    """The places that answer, in their order: what is there, by whatever URL, and its copy."""
    return ask({place: partial(_look, place) for place in places})


def _look(place: NodePlace) -> _Look:
    return _Look(place.whereabouts(), _copy_at(place))


def _copy_at(place: NodePlace) -> bytes | None:
    """None also where it cannot be read: that has no vote, and is no sign of whose the place is."""
    try:
        return place.read(FILE_NAME, drive_file.MAX_SIZE)
    except OSError:
        return None


def _chosen(
    folder: str, readable: dict[NodePlace, DriveFile], copies: dict[NodePlace, bytes | None]
) -> DriveFile:
    """The file that most votes say; of equals, the one that the drive's folder says, else the highest
    epoch."""
    votes = Counter(data for place, data in copies.items() if place in readable)

    def weight(place: NodePlace) -> tuple[int, bool, int]:
        return votes[copies[place]], place == own_place(folder), readable[place].epoch

    chosen = readable[max(readable, key=weight)]
    own = readable.get(own_place(folder))
    if own is None or own == chosen:
        return chosen
    if _only_paths_differ(own, chosen):
        return own if _leads_to_nodes(folder, own) else chosen
    return own if _gives_up_in_vain(folder, chosen, own) else chosen


def _gives_up_in_vain(folder: str, file: DriveFile, before: DriveFile) -> bool:
    """Whether `node recover` made this map, and a majority of the voters of the one before answers."""
    if file.epoch - before.epoch < AHEAD:
        return False
    voters = [entry for entry in before.nodes if entry.votes]
    found = ask({entry: partial(_is_member, entry.place(folder), entry, before.id) for entry in voters})
    return sum(found.values()) > len(voters) // 2


def _only_paths_differ(one: DriveFile, other: DriveFile) -> bool:
    def without_paths(file: DriveFile) -> DriveFile:
        return replace(file, nodes=tuple(replace(entry, url="-") for entry in file.nodes))

    return without_paths(one) == without_paths(other)


def _leads_to_nodes(folder: str, file: DriveFile) -> bool:
    return all(answers_as_member(entry.place(folder), entry, file.id) for entry in file.nodes)


def answers_as_member(place: NodePlace, entry: NodeEntry, drive_id: bytes) -> bool:
    """Whether the node is there. Blocks, not for long."""
    return ask({place: partial(_is_member, place, entry, drive_id)}).get(place, False)


def _is_member(place: NodePlace, entry: NodeEntry, drive_id: bytes) -> bool:
    try:
        found = place.identity(entry.name)
    except NodeError:
        return False
    return (found.name, found.drive_id) == (entry.name, drive_id)


def own_place(folder: str) -> NodePlace:
    """The drive's own folder as a place: it, and each folder in it, has a copy as nodes have."""
    return DirectoryPlace(os.path.abspath(folder))


def _decoded(data: bytes | None) -> DriveFile | None:
    try:
        return None if data is None else drive_file.decode(data, FILE_NAME)
    except FormatError:
        return None


def _drive_of(place: NodePlace, key: str) -> bytes | None:
    try:
        return decode_footer(place.tail(key, FOOTER_SIZE)).drive_id
    except (OSError, DriveError):
        return None


def _what_is_wrong(data: bytes | None) -> str:
    if data is None:
        return f"has no {FILE_NAME} that can be read"
    is_readable = _decoded(data) is not None
    return f"has another {FILE_NAME} than most copies" if is_readable else f"has a damaged {FILE_NAME}"


def _nothing_readable(
    folder: str, copies: dict[NodePlace, bytes | None], silent: Sequence[NodePlace]
) -> DriveError:
    if silent:
        return UnavailableError(
            f"{folder}: no copy of {FILE_NAME} could be read, and these do not answer: "
            f"{', '.join(map(str, silent))}; if their disks are only busy, try again",
            [str(place) for place in silent],
        )
    if all(data is None for data in copies.values()):
        return NotFoundError(f"{folder}: there is no drive here (no {FILE_NAME})")
    return FormatError(f"{folder}: no copy of {FILE_NAME} can be understood")
