"""The numbers of a status, as Prometheus reads them."""

from __future__ import annotations

from gateway.control.metrics import gauge_lines


def test_gauges_are_named_by_their_path() -> None:
    status = {"a": 1, "b-c": {"d": True, "e": "text", "f": None}, "g": [1]}
    assert "".join(gauge_lines(status)) == (
        "# TYPE drivefs_a gauge\ndrivefs_a 1.0\n# TYPE drivefs_b_c_d gauge\ndrivefs_b_c_d 1.0\n"
    )
