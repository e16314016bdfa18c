"""One error out of nested groups."""

from __future__ import annotations

from backend.errors import FencedError, UsageError, sole


def test_the_one_error_in_nested_groups_is_told() -> None:
    error = UsageError("a")
    assert sole(error) is error
    assert sole(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    interrupt = KeyboardInterrupt()
    assert sole(BaseExceptionGroup("", [interrupt])) is interrupt


def test_of_several_alike_the_first_is_told_and_of_others_all() -> None:
    first = FencedError("a")
    assert sole(ExceptionGroup("", [first, FencedError("b")])) is first
    group = ExceptionGroup("", [first, UsageError("c")])
    assert sole(group) is group
