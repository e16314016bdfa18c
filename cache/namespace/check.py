"""What must be true of a namespace database, as SQL: names and inodes both ways, sizes, extents, the past.

Read only, on a connection of its own; may run in any thread. Each rule selects the rows that break it.
Rules see what was saved. With `published` that is a state that a commit ended: a snapshot, a replayed log.
Without, it is a live state, whose content may still be on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from cache.namespace.operations import MAX_INODE, MAX_NAME, ROOT_INODE
from cache.namespace.rows import FIRST_COOKIE, MAX_EXTENT, S_IFMT_MASK, Statistics
from cache.namespace.schema import Connection, check_format, open_database, read_meta, sqlite_errors

TOLD: Final = 10
"""At most so many rows of one rule are told."""

_DIRECTORY: Final = f"mode & {S_IFMT_MASK} = {0o040000}"
_REGULAR: Final = f"mode & {S_IFMT_MASK} = {0o100000}"
_LINK: Final = f"mode & {S_IFMT_MASK} = {0o120000}"
_KEYS: Final = {"inode": "inode", "dentry": "parent, name", "xattr": "inode, name", "extent": "inode, offset"}


class Rule(NamedTuple):
    """`sql` selects an inode (or 0) for each breach; `text` says what is wrong with it."""

    text: str
    sql: str


def _past_rules(table: str, key: str) -> list[Rule]:
    columns = key.split(", ")
    same = " AND ".join(f"live.{column} = past.{column}" for column in columns)
    return [
        Rule(
            f"a past row of {table} ends before it begins",
            f"SELECT {columns[0]} FROM past_{table} WHERE born >= died",
        ),
        Rule(
            f"past rows of {table} overlap",
            f"SELECT {columns[0]} FROM (SELECT {columns[0]}, born, lag(died)"
            f" OVER (PARTITION BY {key} ORDER BY born)"
            f" AS before FROM past_{table}) WHERE before > born",
        ),
        Rule(
            f"a live row of {table} overlaps its past",
            f"SELECT past.{columns[0]} FROM past_{table} AS past JOIN {table} AS live ON {same}"
            " WHERE past.died > live.born",
        ),
    ]


RULES: Final = [
    Rule(
        "a name leads to an inode that does not exist",
        "SELECT inode FROM dentry WHERE inode NOT IN (SELECT inode FROM inode)",
    ),
    Rule(
        "an inode's number is out of range",
        f"SELECT inode FROM inode WHERE inode NOT BETWEEN {ROOT_INODE} AND {MAX_INODE}",
    ),
    Rule(
        "a name lies in what is no directory",
        f"SELECT parent FROM dentry WHERE parent NOT IN (SELECT inode FROM inode WHERE {_DIRECTORY})",
    ),
    Rule(
        "a name is none",
        f"SELECT parent FROM dentry WHERE length(name) NOT BETWEEN 1 AND {MAX_NAME} OR instr(name, x'2f')"
        " OR instr(name, x'00') OR name IN (x'2e', x'2e2e')",
    ),
    Rule(
        "two names of a directory have one cookie",
        "SELECT parent FROM dentry GROUP BY parent, cookie HAVING count(*) > 1",
    ),
    Rule(
        "a cookie is out of range",
        "SELECT dentry.parent FROM dentry JOIN inode ON inode.inode = dentry.parent"
        f" WHERE cookie < {FIRST_COOKIE} OR cookie >= next_cookie",
    ),
    Rule(
        "a file's link count is not the number of its names",
        "SELECT inode.inode FROM inode LEFT JOIN (SELECT inode, count(*) AS names FROM dentry GROUP BY inode)"
        f" AS found ON found.inode = inode.inode WHERE NOT ({_DIRECTORY}) AND nlink != coalesce(names, 0)",
    ),
    Rule(
        "a directory has not exactly one name",
        "SELECT inode.inode FROM inode LEFT JOIN (SELECT inode, count(*) AS names FROM dentry GROUP BY inode)"
        f" AS found ON found.inode = inode.inode WHERE {_DIRECTORY}"
        f" AND coalesce(names, 0) != (inode.inode != {ROOT_INODE} AND nlink > 0)",
    ),
    Rule(
        "a directory's link count is not 2 and its sub-directories",
        "SELECT inode.inode FROM inode LEFT JOIN (SELECT parent, count(*) AS below FROM inode"
        f" WHERE {_DIRECTORY} AND nlink > 0 AND inode != {ROOT_INODE} GROUP BY parent) AS found"
        f" ON found.parent = inode.inode WHERE {_DIRECTORY} AND nlink > 0"
        " AND nlink != 2 + coalesce(below, 0)",
    ),
    Rule(
        "a directory's size is not the number of its names",
        "SELECT inode.inode FROM inode"
        " LEFT JOIN (SELECT parent, count(*) AS names FROM dentry GROUP BY parent)"
        f" AS found ON found.parent = inode.inode WHERE {_DIRECTORY} AND size != coalesce(names, 0)",
    ),
    Rule(
        "a directory's '..' is not where its name lies",
        "SELECT inode.inode FROM inode JOIN dentry ON dentry.inode = inode.inode"
        f" WHERE {_DIRECTORY} AND inode.parent != dentry.parent",
    ),
    Rule(
        "the root is not a directory that is its own parent",
        f"SELECT {ROOT_INODE} WHERE NOT EXISTS (SELECT 1 FROM inode"
        f" WHERE inode = {ROOT_INODE} AND {_DIRECTORY}"
        f" AND parent = {ROOT_INODE})",
    ),
    Rule(
        "a directory cannot be reached from the root",
        f"WITH RECURSIVE reached(inode) AS (SELECT {ROOT_INODE} UNION SELECT dentry.inode FROM reached"
        " JOIN dentry ON dentry.parent = reached.inode JOIN inode ON inode.inode = dentry.inode"
        f" WHERE {_DIRECTORY}) SELECT inode FROM inode WHERE {_DIRECTORY} AND nlink > 0"
        " AND inode NOT IN (SELECT inode FROM reached)",
    ),
    Rule(
        "a symbolic link's size is not that of its target",
        f"SELECT inode FROM inode WHERE {_LINK} AND size != length(target)",
    ),
    Rule("a number is out of range", "SELECT inode FROM inode WHERE size < 0 OR nlink < 0 OR inode < 1"),
    Rule(
        "an extended attribute has no inode",
        "SELECT inode FROM xattr WHERE inode NOT IN (SELECT inode FROM inode)",
    ),
    Rule(
        "an extent belongs to no file",
        f"SELECT DISTINCT inode FROM extent WHERE inode NOT IN (SELECT inode FROM inode WHERE {_REGULAR})",
    ),
    Rule(
        "an extent is out of its limits",
        f"SELECT inode FROM extent WHERE offset < 0 OR block_offset < 0"
        f" OR length NOT BETWEEN 1 AND {MAX_EXTENT}"
        f" OR block_offset + length > {MAX_EXTENT} OR length(block) != 32",
    ),
    Rule(
        "extents of a file overlap",
        "SELECT inode FROM (SELECT inode, offset, lag(offset + length)"
        " OVER (PARTITION BY inode ORDER BY offset)"
        " AS before FROM extent) WHERE before > offset",
    ),
    Rule(
        "a file's allocated bytes are not those of its extents",
        "SELECT inode.inode FROM inode"
        " LEFT JOIN (SELECT inode, sum(length) AS covered FROM extent GROUP BY inode)"
        " AS found ON found.inode = inode.inode WHERE allocated != coalesce(covered, 0)",
    ),
    Rule(
        "commits go back in time",
        "SELECT 0 FROM (SELECT time_ns, lag(time_ns) OVER (ORDER BY number) AS before FROM commits)"
        " WHERE before > time_ns",
    ),
    *(rule for table, key in _KEYS.items() for rule in _past_rules(table, key)),
]
PUBLISHED_RULES: Final = [
    Rule(
        "an extent reaches over the file's end",
        "SELECT extent.inode FROM extent JOIN inode ON inode.inode = extent.inode"
        " WHERE offset + length > size",
    ),
    *(
        Rule(
            f"a row of {table} is younger than the newest commit",
            f"SELECT {key.split(', ')[0]} FROM {table}"
            " WHERE born > (SELECT coalesce(max(number), 0) FROM commits)",
        )
        for table, key in _KEYS.items()
    ),
]


class Breach(NamedTuple):
    """A rule that does not hold. `inode` is 0 where it is about no inode."""

    text: str
    inode: int


def check_namespace(path: str, *, published: bool) -> list[Breach]:
    """All breaches in the database at `path`, at most `TOLD` of each rule. `CorruptError`, `FormatError`,
    `NotFoundError`, `TransientError` if it cannot be read."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            check_format(connection, path)
            return list(breaches(connection, published=published))
        finally:
            connection.close()


def breaches(connection: Connection, *, published: bool) -> Iterator[Breach]:
    """As `check_namespace`, on an open connection. If its pages are damaged nothing else is looked at."""
    verdict = [text for (text,) in connection.execute(f"PRAGMA integrity_check({TOLD})")]
    if verdict != ["ok"]:
        yield from (Breach(f"the database is damaged: {text}", 0) for text in verdict)
        return
    for rule in [*RULES, *(PUBLISHED_RULES if published else ())]:
        for (inode,) in connection.execute(f"SELECT * FROM ({rule.sql}) LIMIT {TOLD}"):
            yield Breach(rule.text, inode)
    yield from _wrong_totals(connection)


def _wrong_totals(connection: Connection) -> Iterator[Breach]:
    counted = _totals(connection)
    meta = read_meta(connection)
    for name, count in counted._asdict().items():
        if meta.get(name) != str(count):
            yield Breach(f"the total of {name} is {meta.get(name)}, and counted it is {count}", 0)


def _totals(connection: Connection) -> Statistics:
    """Summed here, because SQL's sum() ends at 64 bits."""
    inodes = files = size = allocated = 0
    rows: Iterator[tuple[Any, ...]] = connection.execute(
        f"SELECT {_REGULAR}, {_DIRECTORY}, size, allocated FROM inode"
    )
    for is_regular, is_directory, row_size, row_allocated in rows:
        inodes += 1
        files += not is_directory
        size += row_size if is_regular else 0
        allocated += row_allocated
    ((entries,),) = connection.execute("SELECT count(*) FROM dentry")
    return Statistics(inodes, files, entries, size, allocated)
