"""What docs/hub/ gives an operator leaves room for all that a hub and its devices do."""

from __future__ import annotations

import re
from pathlib import Path

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
