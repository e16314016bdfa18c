"""What libfuse costs that is left to itself is said where it is so, and nowhere else."""

from __future__ import annotations

import re

import pytest

from mountfs import splicing


def test_the_library_says_which_it_is() -> None:
    assert re.match(r"3\.\d+\.\d+", splicing.libfuse_version())


@pytest.mark.parametrize(
    ("version", "allowed", "warned"),
    [
        ("3.18.3", False, True),
        ("3.18.3", True, False),
        ("3.17.2", False, False),
        ("3.14.0", False, False),
        ("3.19.0", False, False),
        ("", False, False),
    ],
)
def test_a_pipe_for_each_request_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, version: str, allowed: bool, warned: bool
) -> None:
    monkeypatch.setattr(splicing, "libfuse_version", lambda: version)
    monkeypatch.setattr(splicing, "may_have_pipe", lambda: allowed)
    line = splicing.cost_of_receiving()
    assert bool(line) is warned
    assert not warned or (version in line and "fs.pipe-max-size" in line)
