"""The conditions of policies: an operator, a key of the request, values. Pure.

Source: AWS, "IAM JSON policy elements: Condition operators". Invariant: a condition that could never hold
is refused (`MalformedPolicy`): the door does not know its key, or a value is not of its operator's kind.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from operator import eq, ge, gt, le, lt
from typing import Any, ClassVar, Final

from gateway.s3.objects import S3Error

EXISTING_TAG: Final = "s3:existingobjecttag/"
REQUESTED_TAG: Final = "s3:requestobjecttag/"
TAG_KEYS: Final = (EXISTING_TAG, REQUESTED_TAG)
HEADER_KEYS: Final = "s3:x-amz-"
KEYS: Final = (
    "aws:currenttime",
    "aws:epochtime",
    "aws:referer",
    "aws:securetransport",
    "aws:sourceip",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "s3:delimiter",
    "s3:max-keys",
    "s3:prefix",
    "s3:versionid",
)
"""Those that the door fills, as far as the request has them; and one for each tag and header (above)."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    test: Callable[[str, str], bool]
    key: str
    values: tuple[str, ...]
    negated: bool
    if_exists: bool
    is_narrow: bool
    """Only few can meet it: see `_is_narrow`"""

    def holds(self, context: Mapping[str, str]) -> bool:
        value = context.get(self.key)
        if value is None:
            return self.if_exists or self.negated
        return any(self.test(value, wanted) for wanted in self.values) != self.negated


@dataclass(frozen=True, slots=True)
class _Absence:
    """`Null`: whether a key is not there."""

    key: str
    wanted: bool
    is_narrow: ClassVar[bool] = False

    def holds(self, context: Mapping[str, str]) -> bool:
        return (self.key not in context) == self.wanted


Condition = _Comparison | _Absence


def conditions_of(found: Any) -> list[Condition]:
    """Those of a statement; all have to hold. `S3Error`."""
    if not isinstance(found, dict):
        raise malformed_policy("Condition is no object")
    return [
        _condition(operator, key.lower(), values)
        for operator, keys in found.items()
        for key, values in _listed(operator, keys)
    ]


def _listed(operator: str, keys: Any) -> list[tuple[str, tuple[str, ...]]]:
    if not isinstance(keys, dict) or not keys:
        raise malformed_policy(f"the condition {operator} names no key")
    return [(key, _texts(values if isinstance(values, list) else [values])) for key, values in keys.items()]


def _condition(operator: str, key: str, values: tuple[str, ...]) -> Condition:
    if key not in KEYS and not any(key.startswith(each) and key != each for each in (*TAG_KEYS, HEADER_KEYS)):
        raise malformed_policy(f"the condition key {key} is not known")
    plain = operator.lower().removesuffix("ifexists")
    name = _NEGATED.get(plain, plain)
    _check_values(name, values)
    if plain == _NULL:
        return _absence(key, values)
    if name not in _TESTS:
        raise malformed_policy(f"the condition {operator} is not known")
    if_exists, negated = plain != operator.lower(), name != plain
    narrow = not if_exists and not negated and _is_narrow(name, key, values)
    return _Comparison(_TESTS[name], key, values, negated, if_exists, narrow)


def _absence(key: str, values: Sequence[str]) -> _Absence:
    if len(values) != 1:
        raise malformed_policy("Null is true or false")
    return _Absence(key, values[0].lower() == "true")


def _is_narrow(name: str, key: str, values: Sequence[str]) -> bool:
    """Whether these values are few. Source: AWS, "Blocking public access", "The meaning of public"."""
    if name == "ipaddress" and key == "aws:sourceip":
        networks = [ipaddress.ip_network(value, strict=False) for value in values]
        return all(network.prefixlen >= _NARROW[network.version] for network in networks)
    is_of_texts = name.startswith(("string", "arn")) and key in _OF_SIGNERS
    return is_of_texts and not any(set("*?") & set(value) for value in values)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not values or not all(isinstance(value, bool | str | int) for value in values):
        raise malformed_policy("a condition has a value that is no text, or none")
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    if any("${" in text for text in texts):
        raise malformed_policy("variables are not served")
    return texts


def _check_values(name: str, values: Sequence[str]) -> None:
    kind = next((kind for kind in _KINDS if name.startswith(kind)), "")
    for value in values if kind else ():
        try:
            _KINDS[kind](value)
        except ValueError:
            raise malformed_policy(f"{value} is no value of the condition {name}") from None


def like(pattern: str, value: str) -> bool:
    """Whether `value` is one of those that a pattern means: `*` is any text, `?` any character."""
    return pattern == "*" or _pattern(pattern).fullmatch(value) is not None


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    """Nothing else means something. What fnmatch makes of it goes back for no star but the last one, so that
    no pattern is slow."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def _like(value: str, wanted: str) -> bool:
    return like(wanted, value)


def _same_but_for_case(value: str, wanted: str) -> bool:
    return value.lower() == wanted.lower()


def _is_in(value: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _instant(text: str) -> float:
    """Seconds since 1970, of ISO 8601 (UTC, unless it says otherwise), or of such seconds since 1973 (nine
    digits: fewer are a date without hyphens, or a year). `ValueError`."""
    if re.fullmatch(r"[0-9]{9,12}(\.[0-9]+)?", text):
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _network(text: str) -> object:
    return ipaddress.ip_network(text, strict=False)


def _compared(
    read: Callable[[str], float], compare: Callable[[float, float], bool], value: str, wanted: str
) -> bool:
    """A value that the request has, and that is of another kind, compares as nothing."""
    try:
        return compare(read(value), read(wanted))
    except ValueError:
        return False


_KINDS: Final[Mapping[str, Callable[[str], object]]] = {
    "ipaddress": _network,
    "numeric": _number,
    "date": _instant,
    "bool": _truth,
    "null": _truth,
}
"""Which values operators have that begin so; `ValueError` for others."""
_ORDERS: Final = {
    "equals": eq,
    "lessthan": lt,
    "lessthanequals": le,
    "greaterthan": gt,
    "greaterthanequals": ge,
}
_TESTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "stringequals": eq,
    "stringlike": _like,
    "stringequalsignorecase": _same_but_for_case,
    "bool": _same_but_for_case,
    "ipaddress": _is_in,
    **{f"numeric{name}": partial(_compared, _number, order) for name, order in _ORDERS.items()},
    **{f"date{name}": partial(_compared, _instant, order) for name, order in _ORDERS.items()},
    "arnequals": eq,
    "arnlike": _like,
}
_NULL: Final = "null"
_NEGATED: Final = {
    "stringnotequals": "stringequals",
    "stringnotlike": "stringlike",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "notipaddress": "ipaddress",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
}
_OF_SIGNERS: Final = ("aws:username", "aws:userid")
_NARROW: Final = {4: 8, 6: 32}
"""The shortest prefix of a network that is not public, by the version of IP."""


def malformed_policy(why: str) -> S3Error:
    """`MalformedPolicy`."""
    return S3Error("MalformedPolicy", f"The policy is not well-formed: {why}.")
