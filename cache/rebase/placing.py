"""Placing: the directory and the name of everything that comes to the published state.

A directory that was deleted there is made again where it was. Two new directories of one name are one. Any
other name that is taken becomes a conflict name.
"""

from __future__ import annotations

from collections import Counter

from cache.namespace import MAX_NAME, ROOT_INODE
from cache.rebase.conflict_mark import COPY_OF, Mark, encode_mark
from cache.rebase.conflict_names import conflict_name, is_read_by_ending, original_of
from cache.rebase.net_changes import Key
from cache.rebase.plan import Plan, Row, Situation, is_alive, made_of
from cache.rebase.quiet_names import MOST_COPIES, is_quiet


class Placing:
    """See the module. `numbers`: inodes of this device that are others at the head."""

    def __init__(self, situation: Situation, plan: Plan) -> None:
        self._s = situation
        self._plan = plan
        self.numbers: dict[int, int] = {}
        self._folder_names: dict[int, bytes] = {}
        """those of the head that were asked for"""
        self._copies: dict[int, Counter[bytes]] = {}

    def key_of(self, folder: int) -> Key:
        """The name of a directory that lives here and not at the head."""
        come = self._s.ours.come.get(folder)
        return min(come or self._s.theirs.gone[folder])

    def number_of(self, folder: int) -> int:
        """The directory at the head that stands for one of this device."""
        chain: list[int] = []
        above = folder
        while above not in self.numbers and not is_alive(self._s.head, above):
            chain.append(above)
            above = self.key_of(above)[0]
        for each in reversed(chain):
            parent, name = self.key_of(each)
            self.numbers[each] = self._folder(each, (self.numbers.get(parent, parent), name))
        return self.numbers.get(folder, folder)

    def _folder(self, folder: int, key: Key) -> int:
        """The directory to be at `key`, which is the name it has here."""
        is_new = self._s.base.inode(folder) is None
        there = self._plan.entry(self._s.head, key)
        if there and self._is_one(there, is_new=is_new):
            self._plan.decide(Row.FOLDERS_MERGED, folder, key)
            return there
        number = folder if is_new else self._s.number()
        if not is_new:
            self._plan.decide(Row.FOLDER_AGAIN, folder, key)
        self._plan.made[number] = made_of(self._s.local, folder, number)
        self._take(number, key)
        return number

    def _is_one(self, there: int, *, is_new: bool) -> bool:
        """Whether the directory `there` and ours of that name are one: if ours is new, only a new one is."""
        if there in self._plan.made:
            return self._plan.made[there].row.is_directory
        row = self._s.head.inode(there)
        is_folder = row is not None and row.is_directory
        return is_folder and (not is_new or self._s.base.inode(there) is None)

    def place_new(self, inode: int, keys: list[Key]) -> None:
        """Give an inode that this device made its names; if the same is there already, it is that one."""
        there = self._plan.entry(self._s.head, self._mapped(keys[0]))
        if (
            len(keys) == 1
            and there
            and not self._s.held(inode)
            and there not in self._plan.made
            and self._s.is_same_content(inode, there)
        ):
            self.numbers[inode] = there
            self._plan.decide(Row.SAME, inode, keys[0])
            return
        self._plan.made[inode] = made_of(self._s.local, inode, inode)
        for key in keys:
            self.place(inode, key)

    def place(self, inode: int, key: Key) -> None:
        """Give the inode that name, or a conflict name. The directory is one of this device."""
        self._take(inode, self._mapped(key))

    def _mapped(self, key: Key) -> Key:
        return self.number_of(key[0]), key[1]

    def _take(self, inode: int, key: Key) -> None:
        if self._plan.entry(self._s.head, key):
            self._plan.decide(Row.NAME_TAKEN, inode, key)
            self.place_copy(inode, key)
        else:
            self._plan.place(key, inode)

    def place_copy(self, inode: int, key: Key) -> None:
        """Give the inode a conflict name beside `key`, which is one of the head. A file that is made may be a
        version instead."""
        made = self._plan.made.get(inode)
        is_made_file = made is not None and made.row.is_regular
        if is_made_file and self.is_quiet(key):
            self.keep_version(inode, key)
            return
        self._plan.place(self._free_key(inode, key), inode)
        if is_made_file:
            self._count_copies(key[0])[original_of(key[1]) or key[1]] += 1
            self.mark(inode, key[1])

    def is_quiet(self, key: Key) -> bool:
        """Whether no copy is shown beside `key`."""
        if is_quiet(self._chain(key[0]), key[1]):
            return True
        return self._count_copies(key[0])[original_of(key[1]) or key[1]] >= MOST_COPIES

    def keep_version(self, inode: int, key: Key) -> None:
        """The file that is made gets no name beside `key`."""
        self._plan.decide(Row.VERSION, inode, key)
        self.mark(inode, key[1], b"/".join(reversed(self._chain(key[0]))))

    def _chain(self, folder: int) -> list[bytes]:
        """The names of the directory and of those above it, the root aside."""
        found: list[bytes] = []
        while folder != ROOT_INODE:
            found.append(self._folder_name(folder))
            folder = self._folder_above(folder)
        return found

    def _folder_above(self, folder: int) -> int:
        """The directory that a directory will be in."""
        if placed := self._plan.names.get(folder):
            return placed[0][0]
        row = self._s.head.inode(folder)
        assert row is not None
        return row.parent

    def _count_copies(self, folder: int) -> Counter[bytes]:
        """By name, the conflict names of it that there are in a directory of the head."""
        if folder not in self._copies:
            names = map(original_of, self._s.head.entries(folder))
            self._copies[folder] = Counter(name for name in names if name is not None)
        return self._copies[folder]

    def mark(self, number: int, name: bytes, folder: bytes | None = None) -> None:
        """Note that a file that is made is a copy of one of that name, or a version of it in `folder`."""
        said = encode_mark(Mark(name, self._s.commit, self._s.host, folder))
        self._plan.made[number].xattrs[COPY_OF] = said

    def free_unit(self, key: Key, time_ns: int, endings: tuple[bytes, ...]) -> Key:
        """A conflict name beside `key` that is free with each of the endings."""

        def is_taken(name: bytes) -> bool:
            return any(self._plan.entry(self._s.head, (key[0], name + ending)) for ending in endings)

        is_last = is_read_by_ending(self._folder_name(key[0]), 0)
        room = max(map(len, endings))
        name = conflict_name(
            key[1], self._s.host, time_ns, is_last=is_last, is_taken=is_taken, limit=MAX_NAME - room
        )
        return key[0], name

    def _free_key(self, inode: int, key: Key) -> Key:
        made = self._plan.made.get(inode)
        row = self._s.head.inode(inode) if made is None else made.row
        assert row is not None
        mode = 0 if row.is_directory else row.mode

        def is_taken(name: bytes) -> bool:
            return bool(self._plan.entry(self._s.head, (key[0], name)))

        name = conflict_name(
            key[1],
            self._s.host,
            row.mtime_ns,
            is_last=is_read_by_ending(self._folder_name(key[0]), mode),
            is_taken=is_taken,
        )
        return key[0], name

    def _folder_name(self, folder: int) -> bytes:
        """The name of a directory that will be there; empty for the root."""
        if placed := self._plan.names.get(folder):
            return placed[0][1]
        if folder not in self._folder_names:
            row = self._s.head.inode(folder)
            names = {} if row is None else self._s.head.entries(row.parent)
            self._folder_names[folder] = next((name for name, inode in names.items() if inode == folder), b"")
        return self._folder_names[folder]
