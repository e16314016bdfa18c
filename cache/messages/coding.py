"""Messages as plain JSON values, and back: each is a frozen dataclass, and its types are what is checked.

Sequences are tuples. A float may be written as an integer; a truth value is no number.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


_OMITTED: Final = "omitted"


def omitted() -> Any:
    """The default of a field that is None unless it is said, and is left out then."""
    return field(default=None, metadata={_OMITTED: True})


class MessageError(ValueError):
    """The value is no message of that type; one line that says why."""


def to_plain(message: Any) -> Any:
    """`message` as dictionaries, lists, numbers and text."""
    if is_dataclass(message):
        said = (part.name for part in fields(message) if _is_said(message, part))
        return {name: to_plain(getattr(message, name)) for name in said}
    if isinstance(message, Mapping):
        return {key: to_plain(value) for key, value in message.items()}
    if isinstance(message, tuple | list):
        return [to_plain(value) for value in message]
    return message


def _is_said(message: Any, part: Field[Any]) -> bool:
    return not (part.metadata.get(_OMITTED) and getattr(message, part.name) is None)


def from_plain(kind: type[T], value: Any, *, lenient: bool = False) -> T:
    """The message of type `kind` that `value` says. `lenient`: what it says beside that is ignored, as
    another version may say more. `MessageError`."""
    if not isinstance(value, Mapping):
        raise MessageError("not a JSON object")
    types = _types(cast(Hashable, kind))
    if not lenient and (more := value.keys() - types.keys()):
        raise MessageError(f"'{min(more)}' is not asked for")
    given = {name: _value(types[name], value[name], name, lenient) for name in types if name in value}
    for part in fields(kind):  # type: ignore[arg-type]  # a dataclass
        if part.name not in given and part.default is MISSING and part.default_factory is MISSING:
            raise MessageError(f"{part.name} is missing")
    return kind(**given)


@cache
def _types(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, value: Any, name: str, lenient: bool) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (inner,) = (part for part in parts if part is not NoneType)
        return None if value is None else _value(inner, value, name, lenient)
    if origin is tuple and isinstance(value, list | tuple):
        if parts[1:] == (...,):
            return tuple(_value(parts[0], each, name, lenient) for each in value)
        if len(value) == len(parts):
            pairs = zip(parts, value, strict=True)
            return tuple(_value(part, each, name, lenient) for part, each in pairs)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: _value(parts[1], each, name, lenient) for key, each in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, value, lenient=lenient)
    if kind in _ACCEPTED and type(value) in _ACCEPTED[kind]:
        return value
    raise MessageError(f"{name} must be {_NAMES.get(origin or kind, 'a list')}")


_ACCEPTED: Final[dict[Any, tuple[type, ...]]] = {str: (str,), bool: (bool,), int: (int,), float: (float, int)}
_NAMES: Final[dict[Any, str]] = {str: "text", bool: "true or false", int: "a number", float: "a number"}
