"""A namespace beside a model that keeps a copy of everything at each commit: the rig of the tests that walk
at random, by hypothesis or by a seed.

Commits may be published, and points among them forgotten: from then on only what is not published is taken
back, and only retained points are looked at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from itertools import pairwise
from random import Random
from typing import Any

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from backend.errors import CorruptError
from cache.history.history import History
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    Create,
    Delete,
    Forget,
    Link,
    Operation,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
    decode,
    encode,
)
from cache.namespace.points import Gap
from cache.namespace.rows import Extent, InodeRow
from cache.publish.snapshot import export, verify_hostile
from tests.property.namespace_model import Invalid, Model, State

TABLES = ("inode", "dentry", "xattr", "extent")
NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\n"])
PICK = st.integers(0, 1000)
EVERY_NAME = sorted([b"a", b"b", b"c", b"\xff\n", *(b"%d" % number for number in range(6))])
FILE_SIZE = 24
MODES = [0o100644, 0o100600, 0o40755, 0o40700, 0o120777, 0o10644]


def dump(path: str, *, with_atime: bool) -> dict[str, list[Any]]:
    """Every row of the versioned tables and the totals, as they are on disk."""
    connection = apsw.Connection(path)
    try:
        tables: dict[str, list[Any]] = {}
        for table in (*TABLES, *(f"past_{name}" for name in TABLES), "commits"):
            rows = connection.execute(f"SELECT * FROM {table}")
            tables[table] = sorted(tuple(row) for row in rows)
        if not with_atime:
            tables["inode"] = [row[:8] + row[9:] for row in tables["inode"]]
        totals = (
            "SELECT key, value FROM meta WHERE key IN ('inodes', 'files', 'entries', 'bytes', 'allocated')"
        )
        tables["meta"] = sorted(connection.execute(totals))
        return tables
    finally:
        connection.close()


def bytes_of(extents: list[Extent]) -> dict[int, tuple[bytes, int]]:
    return {e.offset + i: (e.block, e.block_offset + i) for e in extents for i in range(e.length)}


@st.composite
def contents(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int, bytes, int], ...]]:
    """Cleared ranges, and extents inside them."""
    borders = sorted(draw(st.sets(st.integers(0, FILE_SIZE), min_size=2, max_size=4)))
    cleared, extents = [], []
    for start, end in zip(borders[::2], borders[1::2], strict=False):
        cleared.append((start, end))
        middle = draw(st.integers(start, end))
        for low, high in ((start, middle), (middle, end)):
            if low < high and draw(st.booleans()):
                block = draw(st.sampled_from([b"x" * 32, b"y" * 32, b"z" * 32]))
                extents.append((low, high - low, block, draw(st.integers(0, 5))))
    return tuple(cleared), tuple(extents)


class NamespaceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "namespace.db")
        self.model = Model()
        self.operations: dict[int, list[Operation]] = {}
        self.contents: dict[int, list[Operation]] = {}
        self.forgets: dict[int, tuple[Gap, ...]] = {}
        self.recorded: list[int] = []
        self.waiting: list[tuple[int, int]] = []
        self.ever = {1}
        self.time = 0
        self.position = 0
        self.atime_is_exact = True
        self.open()

    def open(self) -> None:
        # So few rows are made here that only the smallest cache pushes rows out.
        self.namespace = Namespace(self.path, cached_rows=1)
        self.history = History(self.namespace)

    def content_of(self, inode: int) -> int:
        """The commit of its content, as who makes an operation sees it."""
        node = self.model.live.nodes.get(inode)
        return 0 if node is None else node.content

    def now(self) -> int:
        self.time += 1
        return self.time

    def pick(self, number: int, wanted: str = "any") -> int:
        """An inode by number, sometimes one that does not exist."""
        nodes = self.model.live.nodes
        kinds = {"dir": 0o040000, "file": 0o100000}
        found = sorted(
            i for i, n in nodes.items() if n.mode & 0o170000 == kinds.get(wanted, n.mode & 0o170000)
        )
        return 999 if not found or number % 23 == 22 else found[number % len(found)]

    def apply(self, operation: Operation, commit: int | None = None) -> None:
        """Both must take it, or both must refuse it and stay as they were."""
        assert decode(encode(operation)) == operation
        at = self.model.commit if commit is None else commit
        try:
            self.model.apply(operation, at)
        except Invalid:
            before = self.namespace.statistics()
            with pytest.raises(CorruptError):
                self.namespace.apply(operation, commit)
            assert self.namespace.statistics() == before
            return
        self.namespace.apply(operation, commit)
        kept = self.contents if isinstance(operation, SetExtents) else self.operations
        kept.setdefault(at, []).append(operation)

    @initialize(kinds=st.lists(st.sampled_from(MODES), min_size=2, max_size=4))
    def begin(self, kinds: list[int]) -> None:
        for index, mode in enumerate([0o40755, 0o100644, *kinds]):
            self.create(0, b"%d" % index, mode)

    @rule(parent=PICK, name=NAMES, mode=st.sampled_from(MODES))
    def create(self, parent: int, name: bytes, mode: int) -> None:
        target = b"there" if mode == 0o120777 else b""
        inode = self.namespace.allocate_inode()
        self.ever.add(inode)
        self.apply(Create(self.pick(parent, "dir"), name, inode, mode, 7, 8, 0, target, self.now()))

    @rule(inode=PICK, parent=PICK, name=NAMES)
    def link(self, inode: int, parent: int, name: bytes) -> None:
        self.apply(Link(self.pick(inode), self.pick(parent, "dir"), name, self.now()))

    def named(self, parent: int, name: int) -> tuple[int, bytes, int]:
        """A name that exists if the directory has any."""
        directory = self.pick(parent, "dir")
        node = self.model.live.nodes.get(directory)
        names = sorted(node.names.items()) if node else []
        if not names:
            return directory, b"none", 999
        chosen, (inode, _cookie) = names[name % len(names)]
        return directory, chosen, inode

    @rule(parent=PICK, name=PICK)
    def unlink(self, parent: int, name: int) -> None:
        directory, chosen, inode = self.named(parent, name)
        self.apply(Unlink(directory, chosen, inode, self.now()))

    @rule(parent=PICK, name=PICK, new_parent=PICK, new_name=NAMES)
    def rename(self, parent: int, name: int, new_parent: int, new_name: bytes) -> None:
        directory, chosen, inode = self.named(parent, name)
        target = self.pick(new_parent, "dir")
        node = self.model.live.nodes.get(target)
        replaced = node.names.get(new_name, (0, 0))[0] if node else 0
        self.apply(Rename(directory, chosen, target, new_name, inode, replaced, False, self.now()))

    @rule(parent=PICK, name=PICK, new_parent=PICK, new_name=NAMES)
    def rename_leaving_whiteout(self, parent: int, name: int, new_parent: int, new_name: bytes) -> None:
        directory, chosen, inode = self.named(parent, name)
        target = self.pick(new_parent, "dir")
        node = self.model.live.nodes.get(target)
        replaced = node.names.get(new_name, (0, 0))[0] if node else 0
        whiteout = self.namespace.allocate_inode()
        self.ever.add(whiteout)
        names = directory, chosen, target, new_name, inode, replaced
        self.apply(RenameLeavingWhiteout(*names, whiteout, 7, 8, self.now()))

    @rule(parent=PICK, name=PICK, other_parent=PICK, other_name=PICK)
    def exchange(self, parent: int, name: int, other_parent: int, other_name: int) -> None:
        first, second = self.named(parent, name), self.named(other_parent, other_name)
        if first[:2] != second[:2]:
            self.apply(Rename(*first[:2], *second[:2], first[2], second[2], True, self.now()))

    @rule(
        inode=PICK,
        values=st.fixed_dictionaries(
            {},
            optional={
                "mode": st.sampled_from([0o600, 0o4755]),
                "uid": st.integers(0, 2),
                "gid": st.integers(0, 2),
                "size": st.integers(0, FILE_SIZE),
                "mtime_ns": st.integers(-5, 5),
                "ctime_ns": st.integers(0, 5),
                "atime_ns": st.integers(0, 5),
            },
        ),
    )
    def set_attributes(self, inode: int, values: dict[str, int]) -> None:
        self.apply(SetAttributes(self.pick(inode), **values))

    @rule(inode=PICK, atime=st.integers(10, 20))
    def set_atime(self, inode: int, atime: int) -> None:
        self.apply(SetAttributes(self.pick(inode), atime_ns=atime))

    @rule(inode=PICK, name=NAMES, value=st.binary(max_size=3))
    def set_xattr(self, inode: int, name: bytes, value: bytes) -> None:
        self.apply(SetXattr(self.pick(inode), name, value, self.now()))

    @rule(inode=PICK, name=NAMES)
    def remove_xattr(self, inode: int, name: bytes) -> None:
        self.apply(RemoveXattr(self.pick(inode), name, self.now()))

    @rule(inode=PICK)
    def delete(self, inode: int) -> None:
        """Not while content is on its way, nor in the commit that holds it: the drive's promise."""
        number = self.pick(inode)
        node = self.model.live.nodes.get(number)
        busy = any(waiting == number for _, waiting in self.waiting)
        if node is None or not (busy or node.content == self.model.commit):
            self.apply(Delete(number))

    @precondition(lambda self: any(not node.nlink for node in self.model.live.nodes.values()))
    @rule(which=PICK)
    def delete_an_orphan(self, which: int) -> None:
        orphans = sorted(inode for inode, node in self.model.live.nodes.items() if not node.nlink)
        if orphans:
            everything = sorted(self.model.live.nodes)
            self.delete(everything.index(orphans[which % len(orphans)]))

    @rule(inode=PICK, content=contents())
    def set_extents(self, inode: int, content: Any) -> None:
        number = self.pick(inode, "file")
        if not any(waiting == number for _, waiting in self.waiting):
            self.apply(SetExtents(number, self.content_of(number), *content))

    @rule(picks=st.lists(PICK, max_size=3), step=st.integers(1, 2))
    def cut(self, picks: list[int], step: int) -> None:
        """The open commit ends; some files' content of it is still to come."""
        chosen = sorted({self.pick(pick, "file") for pick in picks} - {999})
        self.waiting += [(self.model.commit, inode) for inode in chosen]
        self.model.begin_commit(self.model.commit + step)
        self.namespace.begin_commit(self.model.commit)

    @precondition(lambda self: self.waiting)
    @rule(which=PICK, content=contents())
    def late_content(self, which: int, content: Any) -> None:
        _, inode = self.waiting[which % len(self.waiting)]
        first = min(number for number, waiting in self.waiting if waiting == inode)
        self.waiting.remove((first, inode))
        self.apply(SetExtents(inode, self.content_of(inode), *content), first)

    @rule()
    def save(self) -> None:
        self.position += 1
        self.namespace.save(self.position)

    @rule()
    def reopen(self) -> None:
        self.save()
        self.namespace.close()
        self.open()
        assert self.namespace.journal_position() == self.position
        assert self.namespace.commit == self.model.commit

    @rule(back=st.integers(0, 3))
    def undo(self, back: int) -> None:
        to_commit = max(self.model.commit - back, self.namespace.head().number)
        self.model.undo(to_commit)
        self.namespace.undo(to_commit)
        self.waiting = [(commit, inode) for commit, inode in self.waiting if commit <= to_commit]
        for kept in (self.operations, self.contents, self.forgets):
            for commit in [commit for commit in kept if commit > to_commit]:
                del kept[commit]
        self.atime_is_exact = False
        assert self.namespace.commit == self.model.commit

    @rule()
    def the_live_state_is_right(self) -> None:
        self.check_live()

    @rule(number=PICK)
    def a_past_state_is_right(self, number: int) -> None:
        states = self.states()
        self.check_past(states[number % len(states)])

    def states(self) -> list[int]:
        """The commits as of which the namespace can be seen."""
        head = self.namespace.head().number
        points = [point.number for point in self.namespace.points.points()]
        return [*(points or [0]), *range(head + 1, self.model.commit + 1)]

    @rule()
    def publish(self) -> None:
        """All content comes, the commit ends, and everything is recorded."""
        while self.waiting:
            self.late_content(0, ((), ()))
        self.cut([], 1)
        for number in range(self.namespace.head().number + 1, self.model.commit):
            self.namespace.record_commit(number, bytes(32), number)
            self.recorded.append(number)

    @rule(kept=st.sets(st.integers(0, 40)))
    def forget(self, kept: Set[int]) -> None:
        """The points that are not the `kept`-th, all before the newest."""
        numbers = [0, *(point.number for point in self.namespace.points.points())]
        if self.namespace.points.is_waiting or len(numbers) < 3:
            return
        left = [0, *(n for index, n in enumerate(numbers[1:-1]) if index in kept), numbers[-1]]
        gaps = tuple((low, high) for low, high in pairwise(left) if any(low < n < high for n in numbers))
        if gaps:
            self.namespace.apply(Forget(gaps))
            self.forgets[self.model.commit] = gaps

    @rule(limit=st.integers(1, 7))
    def forget_some(self, limit: int) -> None:
        self.namespace.points.forget_some(limit)

    def check_live(self) -> None:
        namespace, state = self.namespace, self.model.live
        for inode, node in state.nodes.items():
            row = namespace.inode(inode)
            assert row is not None
            assert values(row) == model_values(state, inode)
            listed = [(entry.name, (entry.inode, entry.cookie)) for entry in listing(namespace, inode)]
            assert listed == sorted(node.names.items(), key=lambda item: item[1][1])
            for name, (child, cookie) in node.names.items():
                found = namespace.entry(inode, name)
                assert found is not None
                assert (found.inode, found.cookie) == (child, cookie)
            assert {
                name: namespace.xattr(inode, name) for name in namespace.xattr_names(inode)
            } == node.xattrs
            assert bytes_of(namespace.extents(inode, 0, FILE_SIZE)) == node.data
        assert namespace.inode(999) is None
        assert namespace.orphans() == sorted(i for i, node in state.nodes.items() if not node.nlink)
        self.check_totals()

    def check_totals(self) -> None:
        nodes = self.model.live.nodes.values()
        size = sum(node.size for node in nodes if node.mode & 0o170000 == 0o100000)
        files = sum(node.mode & 0o170000 != 0o040000 for node in nodes)
        names, data = sum(len(n.names) for n in nodes), sum(len(n.data) for n in nodes)
        expected = (len(nodes), files, names, size, data)
        assert self.namespace.statistics() == expected

    def check_past(self, commit: int) -> None:
        history, state = self.history, self.model.state_at(commit)
        for inode in self.ever:
            row = history.inode_at(inode, commit)
            if inode not in state.nodes:
                assert row is None
                continue
            assert row is not None
            assert values(row) == model_values(state, inode)
            node = state.nodes[inode]
            entries = history.entries_at(inode, commit, 0, 1000)
            expected = sorted((cookie, name, child) for name, (child, cookie) in node.names.items())
            assert [(entry.cookie, entry.name, entry.inode) for entry in entries] == expected
            found = [history.entry_at(inode, name, commit) for name in EVERY_NAME]
            assert sorted(e.name for e in found if e) == sorted(node.names)
            assert all(history.entry_at(inode, entry.name, commit) == entry for entry in entries)
            names = history.xattr_names_at(inode, commit)
            assert {name: history.xattr_at(inode, name, commit) for name in names} == node.xattrs
            assert [n for n in EVERY_NAME if history.xattr_at(inode, n, commit) is not None] == names
            assert bytes_of(history.extents_at(inode, 0, FILE_SIZE, commit)) == node.data

    def teardown(self) -> None:
        try:
            self.check_end()
        finally:
            self.namespace.close()
            shutil.rmtree(self.folder)

    def check_end(self) -> None:
        self.check_live()
        self.check_states()
        finish(self.namespace)
        self.check_states()
        self.save()
        replayed = self.replay("replayed.db", self.model.commit)
        assert dump(self.path, with_atime=self.atime_is_exact) == dump(
            replayed, with_atime=self.atime_is_exact
        )
        head = self.namespace.head().number
        for commit in {max(self.model.commit // 2, head), max(self.model.commit - 1, head)}:
            self.check_snapshot(commit)
        self.undo(2)
        self.check_live()

    def check_states(self) -> None:
        for commit in self.states():
            self.check_past(commit)

    def replay(self, name: str, last: int) -> str:
        """A machine that gets whole commits in order: operations, then content; and forgets in the end."""
        path = os.path.join(self.folder, name)
        fresh = Namespace(path)
        for commit in range(1, last + 1):
            fresh.begin_commit(commit)
            for operation in (*self.operations.get(commit, ()), *self.contents.get(commit, ())):
                fresh.apply(operation)
            if commit in self.forgets:
                fresh.apply(Forget(self.forgets[commit]))
            if commit in self.recorded:
                fresh.record_commit(commit, bytes(32), commit)
        finish(fresh)
        fresh.save(1)
        fresh.close()
        return path

    def check_snapshot(self, commit: int) -> None:
        path = os.path.join(self.folder, f"snapshot{commit}.db")
        export(self.path, path, commit)
        verify_hostile(path)
        replayed = self.replay(f"replayed{commit}.db", commit)
        assert dump(path, with_atime=False) == dump(replayed, with_atime=False)


def finish(namespace: Namespace) -> None:
    """Forget all that is to be forgotten."""
    while namespace.points.forget_some(7):
        pass


def listing(namespace: Namespace, inode: int) -> Iterator[Any]:
    """A directory in pieces of two."""
    cookie = 0
    while page := namespace.entries(inode, cookie, 2):
        yield from page
        cookie = page[-1].cookie


def values(row: InodeRow) -> tuple[Any, ...]:
    numbers = (row.mode, row.uid, row.gid, row.rdev, row.size, row.mtime_ns, row.ctime_ns, row.btime_ns)
    return (*numbers, row.target, row.nlink, row.parent, row.next_cookie, row.content_commit, row.allocated)


def model_values(state: State, inode: int) -> tuple[Any, ...]:
    n = state.nodes[inode]
    numbers = (n.mode, n.uid, n.gid, n.rdev, n.size, n.mtime_ns, n.ctime_ns, n.btime_ns)
    return (*numbers, n.target, n.nlink, n.parent, n.cookie, n.content, len(n.data))


def random_content(random: Random) -> Any:
    """As `contents`, from a generator of random numbers."""
    borders = sorted(random.sample(range(FILE_SIZE + 1), random.choice([2, 4])))
    cleared = tuple(zip(borders[::2], borders[1::2], strict=True))
    extents = [
        (low, high - low, random.choice([b"x", b"y", b"z"]) * 32, random.randrange(5))
        for start, end in cleared
        for low, high in pairwise([start, *sorted(random.sample(range(start, end), 1)), end])
        if low < high and random.random() < 0.7
    ]
    return cleared, tuple(extents)


def random_step(machine: NamespaceMachine, random: Random) -> None:
    """One rule, chosen so that content crosses cuts and the past grows."""
    numbers = [random.randrange(1000) for _ in range(4)]
    names = [random.choice([b"a", b"b", b"c", b"\xff\n"]) for _ in range(2)]
    attributes = {"size": random.randrange(FILE_SIZE), "mtime_ns": machine.now()}
    steps: dict[str, tuple[int, Callable[[], None]]] = {
        "create": (6, lambda: machine.create(numbers[0], names[0], random.choice(MODES))),
        "link": (3, lambda: machine.link(numbers[0], numbers[1], names[0])),
        "unlink": (5, lambda: machine.unlink(numbers[0], numbers[1])),
        "rename": (7, lambda: machine.rename(numbers[0], numbers[1], numbers[2], names[0])),
        "exchange": (3, lambda: machine.exchange(*numbers)),
        "attributes": (4, lambda: machine.set_attributes(numbers[0], attributes)),
        "mode": (3, lambda: machine.set_attributes(numbers[0], {"mode": random.randrange(0o10000)})),
        "atime": (3, lambda: machine.set_atime(numbers[0], machine.now())),
        "xattr": (4, lambda: machine.set_xattr(numbers[0], names[0], names[1])),
        "no xattr": (3, lambda: machine.remove_xattr(numbers[0], names[0])),
        "delete": (6, lambda: machine.delete_an_orphan(numbers[0])),
        "content": (4, lambda: machine.set_extents(numbers[0], random_content(random))),
        "cut": (6, lambda: machine.cut(numbers[:3], random.choice([1, 1, 2]))),
        "late": (9, lambda: machine.late_content(numbers[0], random_content(random))),
        "save": (2, machine.save),
        "reopen": (1, machine.reopen),
        "undo": (1, lambda: machine.undo(random.randrange(4))),
        "live": (3, machine.the_live_state_is_right),
        "past": (2, lambda: machine.a_past_state_is_right(numbers[0])),
    }
    if not machine.waiting:
        del steps["late"]
    weights = [weight for weight, _ in steps.values()]
    (chosen,) = random.choices([step for _, step in steps.values()], weights)
    chosen()
