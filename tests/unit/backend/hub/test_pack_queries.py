"""What a round of housekeeping asks about packs does not grow with the packs that have nothing to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest

from backend.hub.block_table import EMPTY_PACKS
from backend.hub.pack_table import LACKING, page_of
from backend.hub.thin_pack_table import LOCK_PAGE, WAITING
from tests.hub_care import drive_of
from tests.hub_server import hub_for_test

PACKS = 20_000
PLACES = 3
DUE = 100
MANY_ROWS = 10 * DUE


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    """Of a database with many packs that are whole, and `DUE` of each kind of others."""
    with hub_for_test() as running:
        number = drive_of(running).number
        with psycopg.connect(running.conninfo, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")  # no trigger is asked
            connection.execute(
                "INSERT INTO pack (id, drive, size, nodes, missing, shrunk, emptied)"
                " SELECT decode(md5('pack' || n), 'hex'), %s, 8000000, ARRAY['a'], (n %% 200 = 1)::int,"
                " n %% 200 < 3, CASE WHEN n %% 200 = 2 THEN now() END FROM generate_series(1, %s) n",
                (number, PACKS),
            )
            connection.execute(
                "INSERT INTO block (drive, id, state)"
                " SELECT %s, decode(md5('pack' || n) || md5(n || 'b' || m), 'hex'), 1"
                " FROM generate_series(1, %s) n, generate_series(1, %s) m WHERE n %% 200 > 2",
                (number, PACKS, PLACES),
            )
            connection.execute(
                "INSERT INTO place (drive, id, pack, position, length)"
                " SELECT drive, id, substr(id, 1, 16), 0, 2600000 FROM block"
            )
            connection.execute("VACUUM ANALYZE pack, place, block, drive")
        yield running.conninfo


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (EMPTY_PACKS, (b"", 3600.0, DUE)),
        (EMPTY_PACKS, (b"\x80", 3600.0, DUE)),
        (LOCK_PAGE, (0, b"", DUE)),
        (WAITING, ()),
        (page_of(LACKING), (b"",)),
    ],
)
def test_packs_with_nothing_to_do_are_not_looked_at(
    conninfo: str, statement: str, values: Sequence[object]
) -> None:
    with psycopg.connect(conninfo) as connection:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        row = connection.execute(explain.encode(), values).fetchone()
    assert row is not None
    assert _rows(row[0][0]["Plan"]) < MANY_ROWS


def _rows(plan: Mapping[str, Any]) -> float:
    """That the plan has gone through."""
    removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
    own = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return float(own) + sum(map(_rows, plan.get("Plans", ())))
