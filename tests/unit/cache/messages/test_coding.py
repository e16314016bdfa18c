"""Messages come back as they were, and what is none is refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import messages
from cache.errors import InvalidArgumentError
from cache.messages import (
    LOG,
    Call,
    CollectionWanted,
    DriveStatus,
    MessageError,
    MountStatus,
    PathAsked,
    PathLog,
    PathState,
    PolicyTimes,
    ScrubWanted,
    Service,
    UsageShown,
    from_plain,
    to_plain,
)
from tests.statuses import STATUS, mount_status

CALLS = [value for value in vars(messages).values() if isinstance(value, Call)]
KINDS = sorted(
    {DriveStatus, MountStatus, *(kind for call in CALLS for kind in (call.question, call.answer))},
    key=lambda kind: kind.__name__,
)


def as_text(message: Any) -> str:
    """To be compared: what is not a number (NaN) is not equal to itself."""
    return json.dumps(to_plain(message))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
"""What JSON can say. It is made once: to look a new strategy through takes hypothesis longer than to draw."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_message_comes_back_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(st.from_type(kind))
    again = from_plain(kind, json.loads(as_text(message)))
    assert type(again) is kind
    assert as_text(again) == as_text(message)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(data=st.data())
def test_what_is_no_message_is_refused_in_words(kind: type[Any], data: st.DataObject) -> None:
    """A message in which anything stands in the place of one value: one of the type, or refused."""
    plain = dict(to_plain(data.draw(st.from_type(kind))))
    key = data.draw(st.sampled_from([*plain, "unknown"]))
    changed = {**plain, key: data.draw(ANYTHING)}
    if key == "unknown":
        with pytest.raises(MessageError, match=r"^'unknown' is not asked for\Z"):
            from_plain(kind, changed)
    else:
        with suppress(MessageError):  # and nothing else
            message = from_plain(kind, changed)
            assert as_text(from_plain(kind, to_plain(message))) == as_text(message)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (PathAsked, {}, "path is missing"),
        (PathAsked, {"path": 5}, "path must be text"),
        (PathAsked, {"path": "a", "limit": True}, "limit must be a number"),
        (PathAsked, {"path": "a", "limit": 2.5}, "limit must be a number"),
        (PathAsked, {"path": "a", "more": 1}, "'more' is not asked for"),
        (PathAsked, ["path"], "not a JSON object"),
        (PathLog, {"entries": "abc"}, "entries must be a list"),
        (ScrubWanted, {"wait": 1}, "wait must be true or false"),
        (CollectionWanted, {"grace": "1h"}, "grace must be a number"),
        (MountStatus, {**STATUS, "folders": {"state": 1}}, "folders must be text"),
        (MountStatus, {**STATUS, "store": []}, "not a JSON object"),
    ],
)
def test_the_refusal_says_what_is_wrong(kind: type[Any], value: Any, said: str) -> None:
    with pytest.raises(MessageError, match=f"^{said}"):
        from_plain(kind, value)


def test_another_version_may_say_more() -> None:
    assert from_plain(MountStatus, {**STATUS, "new": [1]}, lenient=True) == mount_status()
    state = {"commit": 1, "name": "", "time_ns": 0, "what": [], "new": 1}
    assert from_plain(PathLog, {"entries": [state]}, lenient=True) == PathLog((PathState(1, "", 0, ()),))


def test_what_is_not_said_is_left_out() -> None:
    assert to_plain(PolicyTimes(daily=5)) == {"daily": 5}
    assert "pending_commit" in to_plain(mount_status())
    assert set(to_plain(PathState(1, "n", 2, ("made",)))) == {"commit", "name", "time_ns", "what"}


def test_the_calls_have_names_of_their_own() -> None:
    assert len({call.name for call in CALLS}) == len(CALLS) > 10
    assert issubclass(UsageShown, messages.TreeUsage)


async def test_a_service_takes_and_gives_plain_values() -> None:
    async def log(asked: PathAsked) -> PathLog:
        return PathLog((PathState(asked.limit, asked.path, 0, ()),))

    service = Service(LOG, log)
    answer: Mapping[str, Any] = await service({"path": "a"})
    assert answer == {"entries": [{"commit": 100, "name": "a", "time_ns": 0, "what": []}]}
    with pytest.raises(InvalidArgumentError, match="path is missing"):
        await service({})
