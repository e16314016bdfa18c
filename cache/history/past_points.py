"""At which commits a directory's tree changed: for the listing of its past.

Every change in a tree gives some inode in it a new row; a name that comes or goes changes its directory. So
the points are the births of the rows of all inodes that were ever below the directory, while they were
below. The cost of that walk depends on the names that the tree has and had, not on the commits of the
drive.

The walk is bounded. For a tree of more than `BUDGET` names the points of the whole drive are listed
instead, as they are for the root, which nearly all commits change. Their cost depends on the length of the
list. Every point that is listed is true; in such a list a state may equal the one before.

A birth counts for the first recorded commit not before it. Retention may have thinned the recorded commits;
the rows that are left still tell which of them differ.

Read-only, on a connection of its own, so that it can run in a thread while the loop goes on. It sees what
was saved: the caller saves first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cache.namespace import ROOT_INODE, Connection, open_database, sqlite_errors
from cache.past_names import SECOND

BUDGET: Final = 200_000
MOST_LISTED: Final = 1000
"""Entries of a listing of the past: points of a directory, or versions of a file."""

_FOREVER: Final = (1 << 63) - 1
TREE_POINTS: Final = f"""
WITH RECURSIVE tree (inode, low, high) AS MATERIALIZED (
    VALUES (:directory, 1, {_FOREVER})
    UNION
    SELECT d.inode, max(d.born, t.low), t.high
    FROM tree AS t CROSS JOIN dentry AS d ON d.parent = t.inode WHERE d.born < t.high
    UNION
    SELECT d.inode, max(d.born, t.low), min(d.died, t.high)
    FROM tree AS t CROSS JOIN past_dentry AS d ON d.parent = t.inode WHERE d.born < t.high AND d.died > t.low
    LIMIT :budget
), births (born) AS (
    SELECT r.born FROM tree AS t CROSS JOIN inode AS r ON r.inode = t.inode
    WHERE r.born >= t.low AND r.born < t.high
    UNION
    SELECT r.born FROM tree AS t CROSS JOIN past_inode AS r ON r.inode = t.inode
    WHERE r.born >= t.low AND r.born < t.high
)
SELECT -1, (SELECT count(*) FROM tree) UNION ALL
SELECT number, time_ns FROM (
    SELECT DISTINCT c.number, c.time_ns FROM births CROSS JOIN commits AS c
    ON c.number = (SELECT number FROM commits WHERE number >= births.born ORDER BY number LIMIT 1)
    ORDER BY c.number DESC LIMIT :listed
)
"""
DRIVE_POINTS: Final = """
SELECT number, time_ns FROM (
    SELECT number, time_ns,
        coalesce((
            SELECT b.number FROM commits AS b WHERE b.number < c.number ORDER BY b.number DESC LIMIT 1
        ), 0) AS before
    FROM commits AS c
) WHERE EXISTS (SELECT 1 FROM inode WHERE born > before AND born <= number AND nlink > 0)
    OR EXISTS (SELECT 1 FROM past_inode WHERE died > before AND died <= number AND nlink > 0)
ORDER BY number DESC LIMIT :listed
"""
ORDINAL: Final = "SELECT count(*) FROM commits WHERE time_ns >= ? AND time_ns < ? AND number <= ?"


class ListedCommit(NamedTuple):
    """A commit: its number, time, and the how manieth of its second it is."""

    commit: int
    time_ns: int
    ordinal: int


def points(path: str, directory: int, limit: int = MOST_LISTED, budget: int = BUDGET) -> list[ListedCommit]:
    """The newest points of `directory`'s tree in the namespace database at `path`, the newest first. Blocks;
    any thread."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            found = _found(connection, directory, limit, budget)
            return [
                ListedCommit(number, time_ns, _ordinal(connection, number, time_ns))
                for number, time_ns in found
            ]
        finally:
            connection.close()


def _found(connection: Connection, directory: int, limit: int, budget: int) -> list[tuple[int, int]]:
    if directory != ROOT_INODE:
        bindings = {"directory": directory, "budget": budget, "listed": limit}
        (_, size), *found = connection.execute(TREE_POINTS, bindings)
        if size < budget:
            return found
    return list(connection.execute(DRIVE_POINTS, {"listed": limit}))


def _ordinal(connection: Connection, number: int, time_ns: int) -> int:
    second = time_ns - time_ns % SECOND
    ((count,),) = connection.execute(ORDINAL, (second, second + SECOND, number))
    return int(count)
