"""What docs/hub/ gives an operator leaves room for all that a hub and its devices do."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from backend import wire
from backend.hub.log_segments import KEPT, LEAST
from backend.packs import MAX_BLOCK_SIZE
from tools.hub_server.serving import ANSWER_SECONDS, SETTLE_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
MIB = 1 << 20


def number(page: str, pattern: str) -> int:
    """The one number that the page has there."""
    (found,) = re.findall(pattern, (DOCS / page).read_text(), re.MULTILINE)
    return int(found)


def test_the_balancer_waits_for_polls_and_takes_the_largest_commit() -> None:
    for side in ("client", "server"):
        assert number("hub/haproxy.cfg", rf"^  timeout {side} (\d+)s$") > wire.MAX_WAIT
    assert number("hub/haproxy.cfg", r"content-length\) gt (\d+)") >= wire.MAX_COMMIT


def test_the_service_lets_a_process_end() -> None:
    assert number("hub/drivefs-hub@.service", r"^TimeoutStopSec=(\d+)$") > ANSWER_SECONDS + SETTLE_SECONDS


def test_the_page_has_the_numbers_that_hold() -> None:
    assert number("hub.md", r"a poll is silent for (\d+) s at most") == wire.MAX_WAIT
    assert number("hub.md", r"takes bodies of (\d+) MiB") == wire.MAX_COMMIT // MIB
    assert number("hub.md", r"The (\d+) newest commits of a drive stay") == KEPT
    assert number("hub.md", r"(\d+) older ones together go") == LEAST
    assert number("hub.md", r"A commit of more than (\d+) MiB\s+stays") == MAX_BLOCK_SIZE // MIB
    assert number("hub.md", r"what is under way has (\d+) s\.") == ANSWER_SECONDS


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "hub/grafana.json").read_text())
    return found


def test_the_dashboard_shows_each_metric_of_a_hub_and_no_other() -> None:
    rows = re.findall(r"^\| `(drivefs_hub_\w+)` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    shown = {name.removesuffix("_bucket") for expr in asked for name in re.findall(r"drivefs_hub_\w+", expr)}
    assert shown == set(rows)
    assert all('{job=~"$job"' in expr for expr in asked)


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
