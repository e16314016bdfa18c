"""The metrics: each number of the status is one, and the page says of each what it is."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from cache.messages import MountStatus
from gateway.control.metrics import METRICS, exposition
from tests.statuses import AWAY, NODE_CHANGE, SCRUB, mount_status

PAGE = Path(__file__).parents[4] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def numbers(kind: Any, place: str = "") -> Iterator[str]:
    """The places of all numbers in a message, but for those in sequences and tables."""
    for name, value in get_type_hints(kind).items():
        types_ = get_args(value) if get_origin(value) in (types.UnionType,) else (value,)
        for each in types_:
            if each in (int, float, bool):
                yield place + name
            elif is_dataclass(each):
                yield from numbers(each, f"{place}{name}.")


def test_each_number_of_the_status_is_a_metric() -> None:
    assert sorted(metric.place for metric in METRICS) == sorted(numbers(MountStatus))


def test_the_page_is_the_table() -> None:
    told = [(name, kind, unit, meaning) for name, kind, unit, meaning in ROW.findall(PAGE.read_text())]
    assert told == [(metric.name, metric.kind, metric.unit, metric.meaning) for metric in METRICS]


def test_the_exposition_is_what_prometheus_reads() -> None:
    """Text format 0.0.4: HELP, TYPE and one sample of each; no name twice."""
    text = "".join(
        exposition(mount_status(away=AWAY, scrub=SCRUB, node_change=NODE_CHANGE, pending_commit=8))
    )
    found = re.findall(r"# HELP (\w+) .+\n# TYPE (\w+) (gauge|counter)\n(\w+) ([0-9.e+]+)\n", text)
    assert "".join(text.splitlines()).count("# HELP") == len(found) == len(METRICS)
    assert all(names[0] == names[1] == names[3] for names in found)
    assert len({names[0] for names in found}) == len(METRICS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drivefs_commit", 7.0),
        ("drivefs_published", 0.0),
        ("drivefs_store_capacity_free", 6000.0),
        ("drivefs_pending_commit", None),
        ("drivefs_scrub_bytes", None),
    ],
)
def test_a_value_is_that_of_its_place(name: str, value: float | None) -> None:
    (metric,) = (metric for metric in METRICS if metric.name == name)
    assert metric.value(mount_status()) == value
    assert (f"\n{name} {value!r}\n" in "".join(exposition(mount_status()))) is (value is not None)


def test_without_a_store_its_metrics_are_left_out() -> None:
    assert "drivefs_store" not in "".join(exposition(mount_status(store=None)))
