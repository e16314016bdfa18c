"""cache.namespace.check, cache.sync.check_log: a sound namespace breaks no rule, and each damage breaks
one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backend.errors import CorruptError
from cache.namespace.check import PUBLISHED_RULES, RULES, check_namespace
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    Create,
    Link,
    Operation,
    Rename,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
)
from cache.namespace.schema import Connection, open_database
from cache.retention.lost_files import lost_ranges, named_blocks, paths_of
from cache.sync import check_log

BLOCK, OTHER = bytes([1]) * 32, bytes([2]) * 32
DIRECTORY, REGULAR, SYMLINK = 0o040755, 0o100644, 0o120777


def made(parent: int, name: bytes, inode: int, mode: int, target: bytes = b"") -> Create:
    return Create(parent, name, inode, mode, 0, 0, 0, target, 1000)


def history(base: int) -> list[list[Operation]]:
    """The operations of some commits; inodes from `base` on."""
    directory, file, link, below = range(base, base + 4)
    whole = SetExtents(file, 0, ((0, 200),), ((0, 100, BLOCK, 0), (100, 100, OTHER, 0)))
    return [
        [
            made(1, b"d", directory, DIRECTORY),
            made(directory, b"f", file, REGULAR),
            SetAttributes(file, size=200),
            whole,
        ],
        [
            made(directory, b"l", link, SYMLINK, b"f"),
            SetXattr(file, b"user.x", b"1", 2000),
            made(directory, b"below", below, DIRECTORY),
            Link(file, 1, b"second", 2000),
        ],
        [
            SetAttributes(file, size=50),
            SetExtents(file, 1, ((50, 200),), ()),
            Rename(directory, b"f", 1, b"g", file, 0, False, 3000),
        ],
        [Unlink(directory, b"l", link, 4000), SetXattr(file, b"user.x", b"2", 4000)],
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "namespace.db"
    with closing(Namespace(str(path), device=1)) as namespace:
        for number, operations in enumerate(history(namespace.allocate_inode()), 1):
            namespace.begin_commit(number)
            for operation in operations:
                namespace.apply(operation)
            namespace.record_commit(number, bytes([number]) * 32, number)
        namespace.begin_commit(number + 1)
        namespace.save(0)
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    shutil.copyfile(sound, tmp_path / "namespace.db")
    return tmp_path / "namespace.db"


@contextmanager
def changing(path: Path) -> Iterator[Connection]:
    connection = open_database(str(path))
    try:
        yield connection
    finally:
        connection.close()


def test_a_sound_namespace_breaks_no_rule(sound: Path) -> None:
    assert check_namespace(str(sound), published=True) == []


DAMAGE = {
    "a name leads to an inode that does not exist": "UPDATE dentry SET inode = 99 WHERE name = x'67'",
    "a name lies in what is no directory": "UPDATE dentry SET parent = 99 WHERE name = x'67'",
    "a name is none": "UPDATE dentry SET name = x'2e2e' WHERE name = x'67'",
    "an inode's number is out of range": f"UPDATE inode SET inode = {1 << 62} WHERE mode = {SYMLINK}",
    "two names of a directory have one cookie": "UPDATE dentry SET cookie = 16 WHERE parent = 1",
    "a cookie is out of range": "UPDATE dentry SET cookie = 900 WHERE name = x'67'",
    "a file's link count is not the number of its names": (
        f"UPDATE inode SET nlink = 9 WHERE mode = {REGULAR}"
    ),
    "a directory has not exactly one name": "DELETE FROM dentry WHERE name = CAST('below' AS BLOB)",
    "a directory's link count is not 2 and its sub-directories": "UPDATE inode SET nlink = 7 WHERE inode = 1",
    "a directory's size is not the number of its names": "UPDATE inode SET size = 7 WHERE inode = 1",
    "a directory's '..' is not where its name lies": (
        "UPDATE inode SET parent = 1"
        " WHERE inode IN (SELECT inode FROM dentry WHERE name = CAST('below' AS BLOB))"
    ),
    "the root is not a directory that is its own parent": "UPDATE inode SET parent = 5 WHERE inode = 1",
    "a directory cannot be reached from the root": (
        "UPDATE dentry SET parent = (SELECT inode FROM dentry"
        " WHERE name = CAST('below' AS BLOB)) WHERE name = x'64'"
    ),
    "a symbolic link's size is not that of its target": f"UPDATE inode SET size = 7 WHERE mode = {SYMLINK}",
    "a number is out of range": f"UPDATE inode SET size = -1 WHERE mode = {REGULAR}",
    "an extended attribute has no inode": "UPDATE xattr SET inode = 99",
    "an extent belongs to no file": "UPDATE extent SET inode = 1",
    "an extent is out of its limits": "UPDATE extent SET block_offset = 4194304",
    "extents of a file overlap": (
        "INSERT INTO extent SELECT inode, offset + 1, length, block, block_offset, born FROM extent"
    ),
    "a file's allocated bytes are not those of its extents": (
        f"UPDATE inode SET allocated = 3 WHERE mode = {REGULAR}"
    ),
    "commits go back in time": "UPDATE commits SET time_ns = 100 WHERE number = 1",
    "a past row of inode ends before it begins": "UPDATE past_inode SET died = born",
    "past rows of inode overlap": "UPDATE past_inode SET died = 4 WHERE born = 0",
    "a live row of inode overlaps its past": "UPDATE past_inode SET died = 9",
    "a past row of dentry ends before it begins": "UPDATE past_dentry SET died = born",
    "a live row of dentry overlaps its past": (
        "INSERT INTO past_dentry SELECT parent, name, inode, cookie, 0, 9 FROM dentry"
    ),
    "a past row of xattr ends before it begins": "UPDATE past_xattr SET died = born",
    "a live row of xattr overlaps its past": "UPDATE past_xattr SET died = 9",
    "a past row of extent ends before it begins": "UPDATE past_extent SET died = born",
    "a live row of extent overlaps its past": "UPDATE past_extent SET died = 9",
    "an extent reaches over the file's end": f"UPDATE inode SET size = 10 WHERE mode = {REGULAR}",
    "a row of inode is younger than the newest commit": "UPDATE inode SET born = 9",
    "a row of dentry is younger than the newest commit": "UPDATE dentry SET born = 9",
    "a row of xattr is younger than the newest commit": "UPDATE xattr SET born = 9",
    "a row of extent is younger than the newest commit": "UPDATE extent SET born = 9",
}
_LONGER = {
    "past rows of dentry overlap": (
        "INSERT INTO past_dentry SELECT parent, name, inode, cookie, born + 1, 9 FROM past_dentry"
    ),
    "past rows of xattr overlap": (
        "INSERT INTO past_xattr SELECT inode, name, value, born + 1, 9 FROM past_xattr"
    ),
    "past rows of extent overlap": (
        "INSERT INTO past_extent"
        " SELECT inode, offset, length, block, block_offset, born + 1, 9 FROM past_extent"
    ),
}


def test_there_is_a_damage_for_each_rule() -> None:
    assert {rule.text for rule in [*RULES, *PUBLISHED_RULES]} == DAMAGE.keys() | _LONGER.keys()


@pytest.mark.parametrize(("rule", "damage"), [*DAMAGE.items(), *_LONGER.items()])
def test_each_damage_breaks_its_rule(path: Path, rule: str, damage: str) -> None:
    with changing(path) as connection:
        connection.execute(damage)
        assert connection.changes()
    assert rule in {breach.text for breach in check_namespace(str(path), published=True)}


@pytest.mark.parametrize("total", ["inodes", "files", "entries", "bytes", "allocated"])
def test_wrong_totals_are_found(path: Path, total: str) -> None:
    with changing(path) as connection:
        connection.execute("UPDATE meta SET value = '77' WHERE key = ?", (total,))
    (breach,) = check_namespace(str(path), published=True)
    assert breach.text.startswith(f"the total of {total} is 77")


def test_pages_that_are_damaged_are_told(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="damaged"):
        check_namespace(str(path), published=True)


def test_differences_are_found_in_every_table(sound: Path, path: Path) -> None:
    assert check_log.differences(sound, path) == []
    with changing(path) as connection:
        connection.execute("UPDATE inode SET atime_ns = 5")
    assert check_log.differences(sound, path) == []
    for table in (
        "inode",
        "past_inode",
        "dentry",
        "past_dentry",
        "xattr",
        "past_xattr",
        "extent",
        "past_extent",
    ):
        with changing(path) as connection:
            connection.execute(f"DELETE FROM {table}")
        assert any(text.startswith(f"{table} lacks") for text in check_log.differences(sound, path))
        assert any(text.startswith(f"{table} has") for text in check_log.differences(path, sound))


def test_who_needs_a_block_is_said_by_path_and_version(sound: Path) -> None:
    assert named_blocks(str(sound)) == {BLOCK, OTHER}
    (other,) = lost_ranges(str(sound), {OTHER})
    assert (other.path, other.offset, other.length) == ("/d/f", 100, 100)
    assert (other.first_commit, other.end_commit) == (1, 3)
    assert other.first_time == "1970-01-01T00:00:00Z"
    first, now = lost_ranges(str(sound), {BLOCK})
    assert (first.path, first.first_commit, first.end_commit) == ("/d/f", 1, 3)
    assert (now.length, now.first_commit, now.end_commit) == (50, 3, None)
    assert now.path in ("/g", "/second")
    (path,) = paths_of(str(sound), {12345}).values()
    assert "without a name" in path
