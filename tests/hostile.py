"""One who can write to a node's folder and has no key: what he may put there, in the place of anything.

He knows the formats, the other nodes' files, and how this one's were before. `Attack` is a value, so that
hypothesis can shrink a list of them.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import strategies as st

from backend.cluster import drive_file
from backend.cluster.drive_file import DriveFile
from backend.coding.erasure import Profile
from backend.commits import commit_format, lease_record, object_format
from backend.commits.commit_search import commit_key
from backend.commits.object_format import Copy
from backend.commits.process_identity import this_process
from backend.errors import DriveError
from backend.nodes import NodeEntry
from backend.nodes.identity import NodeIdentity, encode_identity
from backend.packs import fragment_format
from backend.packs.fragment_format import FOOTER_SIZE, FragmentFooter
from backend.system.crypto import plain_hash
from backend.upstream import Commit

TARGETS = (
    "next commit",
    "far commit",
    "commit",
    "head",
    "root",
    "other root",
    "lease",
    "drive.toml",
    "node.toml",
    ".lock",
    ".ballast",
    "fragment",
    "new fragment",
    "packs",
    "pack folder",
    "commits",
    "roots",
)
ACTIONS = (
    "forge",
    "replay",
    "move",
    "junk",
    "empty",
    "truncate",
    "flip",
    "bloat",
    "remove",
    "link",
    "link to itself",
    "link away",
    "pipe",
    "folder",
    "device",
)
MARK = b"\xc5written by nobody who has the key\xc5"
"""In all that is made up: it must never be on another node."""


@dataclass(frozen=True)
class Attack:
    """One change of one thing on a node; `seed` decides what the words leave open."""

    target: str
    action: str
    seed: int


def attacks() -> st.SearchStrategy[list[Attack]]:
    """What he does to a node, in order."""
    one = st.builds(Attack, st.sampled_from(TARGETS), st.sampled_from(ACTIONS), st.integers(0, 1000))
    return st.lists(one, min_size=1, max_size=6)


@dataclass
class Hostile:
    """The master of one node. `earlier` is a copy of the node's folder from before, `outside` a folder that
    he would like drivefs to change."""

    node: Path
    others: list[Path]
    earlier: Path
    outside: Path
    file: DriveFile
    chance: random.Random = field(default_factory=random.Random)

    def strike(self, attack: Attack) -> None:
        """Do it; what cannot be done as things are by now (he has removed the folder) is nothing."""
        self.chance = random.Random(attack.seed)
        with suppress(
            FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError, PermissionError
        ):
            self._do(attack)

    def _do(self, attack: Attack) -> None:
        place = self.node / self._key(attack.target)
        inner = (path for path in place.parents if path != self.node and path.is_relative_to(self.node))
        if any(path.is_symlink() for path in inner):
            return  # it would go through a link that he has made, and be his own doing
        deeds: dict[str, Callable[[Path], object]] = {
            "junk": lambda place: place.write_bytes(MARK + self.chance.randbytes(200)),
            "empty": lambda place: place.write_bytes(b""),
            "truncate": lambda place: os.truncate(place, place.stat().st_size // 2),
            "bloat": lambda place: os.truncate(place, self.chance.choice([5_000, 2 << 20, 5 << 30])),
            "link": lambda place: place.symlink_to(self.outside / self.chance.choice(["file", "", "none"])),
            "link to itself": lambda place: place.symlink_to(place),
            "link away": lambda place: place.symlink_to(
                self.others[0] / place.relative_to(self.node), target_is_directory=place.is_dir()
            ),
            "pipe": os.mkfifo,
            "folder": lambda place: (place / MARK.hex()).mkdir(parents=True),
            "device": lambda place: os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
        }
        if attack.action in ("truncate", "bloat", "flip", "move", "replay", "forge"):
            if place.is_dir() or place.is_symlink() or (place.exists() and not place.is_file()):
                return
            self._change(attack.action, attack.target, place)
            if attack.action in deeds:
                place.touch()
                deeds[attack.action](place)
            return
        _remove(place)
        if attack.action != "remove":
            place.parent.mkdir(parents=True, exist_ok=True)
            deeds[attack.action](place)

    def _change(self, action: str, target: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if action == "forge":
            place.write_bytes(self._forged(target, place))
        elif action == "move":
            place.write_bytes(self._some_file(target).read_bytes())
        elif action == "replay":
            place.write_bytes((self.earlier / place.relative_to(self.node)).read_bytes())
        elif action == "flip" and place.stat().st_size:
            data = bytearray(place.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            place.write_bytes(data)

    def _key(self, target: str) -> str:
        numbers = sorted(int(path.name, 16) for path in self._files(f"commits/{'[0-9a-f]' * 16}"))
        head = max(numbers, default=0)
        return {
            "next commit": commit_key(head + 1),
            "far commit": commit_key(self.chance.choice([head + 2, 2**32, 2**64 - 1])),
            "commit": commit_key(self.chance.randint(1, max(head, 1))),
            "head": commit_key(head),
            "root": "roots/snapshot",
            "other root": "roots/other",
            "fragment": self._fragment(),
            "new fragment": fragment_format.fragment_key(self.chance.randbytes(16), self.chance.randrange(6)),
            "pack folder": str(Path(self._fragment()).parent),
        }.get(target, target)

    def _fragment(self) -> str:
        found = sorted(path for path in self.node.glob("packs/*/*") if not path.name.startswith("."))
        return str(self.chance.choice(found).relative_to(self.node)) if found else "packs/ab/none"

    def _files(self, pattern: str) -> list[Path]:
        """Of all nodes."""
        return sorted(path for node in (self.node, *self.others) for path in node.glob(pattern))

    def _some_file(self, target: str) -> Path:
        """Another one, mostly of the same kind: a young drive has none of some kinds."""
        patterns = {"fragment": "packs/*/[0-9a-f]*", "root": "roots/*"}
        pattern = patterns.get(target.rpartition(" ")[2], "commits/[0-9a-f]*")
        found = [path for path in self._files(pattern) if path.is_file()]
        return self.chance.choice(found or [self.others[0] / "node.toml"])

    # What only the key is missing of

    def _forged(self, target: str, place: Path) -> bytes:
        key = str(place.relative_to(self.node))
        if target in ("next commit", "far commit", "commit", "head"):
            return self._framed(key, self._commit(int(place.name, 16)))
        if target in ("root", "other root"):
            return self._framed(key, MARK)
        if target == "lease":
            return self._lease()
        if target == "drive.toml":
            return drive_file.encode(self._drive_file())
        if target == "node.toml":
            return encode_identity(NodeIdentity(self.node.name, self.file.id, "elsewhere"))
        if target in ("fragment", "new fragment"):
            return self._fragment_of(key, place)
        return MARK

    def _framed(self, key: str, data: bytes) -> bytes:
        ballot = self.chance.choice([0, 1, 2**63, 2**64 - 1])
        return object_format.frame(self.file.id, key, Copy(ballot, data))

    def _commit(self, number: int) -> bytes:
        previous, epoch = bytes(32), 1
        for path in self._files(commit_key(max(number - 1, 0))):
            if not path.is_file():  # a pipe that another hostile node made would be waited for
                continue
            with suppress(Exception):
                head = object_format.unframe(self.file.id, commit_key(number - 1), path.read_bytes())
                previous, epoch = plain_hash(head.data), commit_format.decode(head.data).epoch
        time_ns = 2**62
        return commit_format.encode(Commit(number, previous, 1, epoch, time_ns, (), (), MARK))

    def _lease(self) -> bytes:
        place = next((each for node in self.others if (each := node / "lease").is_file()), None)
        try:
            record = lease_record.decode(place.read_bytes() if place else b"")
        except DriveError:
            return MARK  # another hostile node was here before
        changed = replace(
            record,
            epoch=self.chance.choice([0, record.epoch, 2**63, 2**64 - 2, 2**64 - 1]),
            held=self.chance.random() < 0.8,
            renewals=2**63,
            seconds=1e18,
            holder=replace(this_process(), pid=1, host=MARK.hex()),
        )
        return lease_record.encode(changed, bytes(32))

    def _drive_file(self) -> DriveFile:
        """With many nodes, all inside of his own."""
        fakes = tuple(NodeEntry(f"node{at}", str(self.node / f"loot{at}"), "z") for at in range(20))
        other = replace(self.file, nodes=fakes, name=MARK.hex(), profile="copies:1", epoch=2**62)
        for entry in fakes:
            os.makedirs(entry.url, exist_ok=True)
            identity = encode_identity(NodeIdentity(entry.name, self.file.id, "z"))
            Path(entry.url, "node.toml").write_bytes(identity)
            Path(entry.url, "drive.toml").write_bytes(drive_file.encode(other))
        return other

    def _fragment_of(self, key: str, place: Path) -> bytes:
        """With a footer that is right but for the key of its checksum."""
        pack_id, index = fragment_format.parse_fragment_key(key) or (bytes(16), 0)
        payload, size = MARK * 40, 512
        with suppress(Exception):
            before = place.read_bytes()
            size = fragment_format.decode_footer(before[-FOOTER_SIZE:]).pack_size
            payload = before[:80] + (MARK * len(before))[: len(before) - FOOTER_SIZE - 80]
        profile = Profile.parse(self.file.profile)
        footer = FragmentFooter(self.file.id, pack_id, index, profile, len(payload), size)
        return payload + fragment_format.encode_footer(payload, footer, bytes(32))


def _remove(place: Path) -> None:
    """A folder goes at once, as the mount may be writing to it; what is written to it later is debris."""
    if place.is_dir() and not place.is_symlink():
        gone = place.rename(place.with_name(f".gone-{os.urandom(4).hex()}"))
        shutil.rmtree(gone, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
