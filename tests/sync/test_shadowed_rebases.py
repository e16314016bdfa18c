"""A rebase on a shadow of the namespace is the one that would be made without a pause, whatever devices do:
by eighty walks."""

from __future__ import annotations

from collections import Counter
from copy import copy
from pathlib import Path
from typing import Any, Final

import pytest

from cache.rebase import Resolved
from tests.sync.random_walks import prepared, walk
from tests.sync.simulator import Device, Log

SEEDS: Final = 40
"""In each test."""


class ShadowedDevice(Device):
    """A device that rebases on a shadow first, and then anew without a pause or by the shadow's taking the
    place, in turn."""

    def go_over(self, log: Log, becomes: int | None = None) -> Resolved:
        self.namespace.save(self.namespace.journal_position() + 1)
        shadow = self.namespace.shadow()
        assert shadow is not None
        before, twin = self.state(), copy(self)
        twin.namespace, twin.unpublished = shadow.namespace, [*self.unpublished]
        resolved = Device.go_over(twin, log, becomes)
        after = twin.state()
        assert self.state() == before
        assert shadow.is_there
        if self.namespace.journal_position() % 2:
            self.namespace.take_place(shadow)
            self.unpublished = twin.unpublished
        else:
            shadow.give_way()
            assert super().go_over(log, becomes) == resolved
        assert self.state() == after
        assert self.unpublished == twin.unpublished
        return resolved

    def state(self) -> tuple[Any, ...]:
        """All that the next operations depend on, but the next inode: a rebase takes numbers."""
        namespace = self.namespace
        return self.rows(), namespace.head(), namespace.commit, namespace.statistics()


@pytest.mark.parametrize("count", [2, 3])
def test_a_shadow_becomes_what_the_namespace_would(tmp_path: Path, count: int) -> None:
    base = prepared(tmp_path)
    for seed in range(SEEDS):
        try:
            walk(tmp_path, base, seed, count, Counter(), ShadowedDevice)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {count} devices") from error
