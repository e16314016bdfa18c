"""What the commands print: whatever a name is made of, a terminal gets nothing that it would obey."""

from __future__ import annotations

import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.terminal import complain, printable, printable_name, say

NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).map(os.fsdecode),
    st.text(st.characters(), min_size=1, max_size=40),
    st.text(st.sampled_from("a\x1b[31m\n\r\t\x00\x7f\x9b\u202e\u2028\u200b é€日\udcff"), max_size=40),
)


@given(NAMES)
def test_a_terminal_gets_one_line_that_it_does_not_obey(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert printable(shown) == shown
    if name.isprintable():
        assert shown == name


@given(st.lists(NAMES, max_size=4), st.sampled_from(["ascii", "iso-8859-1", "utf-8", "koi8-r"]))
def test_every_locale_gets_every_name(names: list[str], encoding: str) -> None:
    raw = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        say(*names)
        written = raw.getvalue()
    lines = written.decode(encoding).split("\n")
    assert len(lines) == len(names) + 1, "a name has made a line of its own"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("é", "é"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\nb"),
        ("\udcff", r"\xff"),
        ("\u202e", r"\u202e"),
        ("a b\\", "a b\\"),
    ],
)
def test_what_a_person_sees(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_name_from_the_mount_is_bytes() -> None:
    assert printable_name("a%FF%0A%C3%A9") == r"a\xff\né"


def test_nothing_is_said_where_nobody_can_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("a")
    complain("b")
