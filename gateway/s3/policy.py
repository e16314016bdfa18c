"""Policies: documents that allow or deny actions, of an access key (identity) or of a bucket.

Source: AWS, "IAM JSON policy elements reference", as far as object stores use it. Pure.

Invariants:
1. A denial wins over whatever allows. Nothing that is not allowed is.
2. A policy with something that is not understood is refused when it is set (`MalformedPolicy`), so that none
   is ever half in force.
3. A bucket's policy is about this bucket alone: a statement that names another one cannot be set, and says
   nothing in a bucket that the mount has renamed since.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal

from gateway.s3.objects import S3Error

MAX_POLICY: Final = 20 << 10
VERSIONS: Final = ("2012-10-17", "2008-10-17")
RESOURCE: Final = "arn:aws:s3:::"
PUBLIC: Final = "*"
EXISTING_TAG: Final = "s3:existingobjecttag/"
REQUESTED_TAG: Final = "s3:requestobjecttag/"
_ARN: Final = re.compile("arn:aws:iam::(?P<account>[^:]*):(root|user/(?P<user>.+))")
TAG_KEYS: Final = (EXISTING_TAG, REQUESTED_TAG)

Verdict = Literal["allow", "deny", ""]


@dataclass(frozen=True, slots=True)
class Question:
    """`principal`: a user's name, empty for nobody. `resource`: BUCKET or BUCKET/KEY. `context`: condition
    keys in lower case, with their values. `tags`: those about tags, looked up where a policy names one."""

    principal: str
    action: str
    resource: str
    context: Mapping[str, str]
    tags: Callable[[], Mapping[str, str]] = dict


@dataclass(frozen=True, slots=True)
class _Condition:
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


@dataclass(frozen=True, slots=True)
class _Statement:
    effect: Verdict
    principals: tuple[str, ...] | None
    """None: of an identity policy, which is about whose it is"""
    actions: tuple[tuple[str, ...], bool]
    resources: tuple[tuple[str, ...], bool]
    conditions: tuple[_Condition | _Absence, ...]

    def applies(self, question: Question) -> bool:
        return (
            self._is_about(question.principal)
            and _matches(self.actions, question.action.lower())
            and _matches(self.resources, question.resource)
            and all(condition.holds(question.context) for condition in self.conditions)
        )

    def is_of(self, bucket: str) -> bool:
        """Whether all resources that it names may be of this bucket."""
        return all(_like(name.split("/")[0], bucket) for name in self.resources[0])

    def _is_about(self, principal: str) -> bool:
        return self.principals is None or PUBLIC in self.principals or (principal or None) in self.principals

    @property
    def is_public(self) -> bool:
        is_narrow = any(condition.is_narrow for condition in self.conditions)
        return self.effect == "allow" and PUBLIC in (self.principals or ()) and not is_narrow


@dataclass(frozen=True, slots=True)
class Policy:
    """Made by `parse`."""

    statements: tuple[_Statement, ...]

    def verdict(self, question: Question) -> Verdict:
        """The answer of the policy; empty: nothing."""
        if self._names_tags:
            question = replace(question, context={**question.context, **question.tags()})
        effects = {each.effect for each in self.statements if each.applies(question)}
        return "deny" if "deny" in effects else "allow" if "allow" in effects else ""

    @property
    def _names_tags(self) -> bool:
        conditions = (condition for statement in self.statements for condition in statement.conditions)
        return any(condition.key.startswith(TAG_KEYS) for condition in conditions)

    @property
    def is_public(self) -> bool:
        """Whether it allows everybody something, under no condition that only few can meet."""
        return any(statement.is_public for statement in self.statements)


def parse(document: bytes, bucket: str | None) -> Policy:
    """The policy that a bucket, or a key (None), is to have. `S3Error`: `MalformedPolicy`."""
    found = _parsed(document, bucket is None)
    if bucket is not None and not all(each.is_of(bucket) for each in found.statements):
        raise S3Error("MalformedPolicy", "Policy has invalid resource")
    return found


@lru_cache(maxsize=256)
def of_bucket(document: bytes, bucket: str) -> Policy:
    """The policy that a bucket has, as far as it is of this bucket. `S3Error`: `MalformedPolicy`."""
    return Policy(tuple(each for each in _parsed(document, False).statements if each.is_of(bucket)))


@lru_cache(maxsize=256)
def _parsed(document: bytes, of_key: bool) -> Policy:
    if len(document) > MAX_POLICY:
        raise _malformed("it is too large")
    try:
        found = json.loads(document)
    except ValueError:
        raise _malformed("it is no JSON") from None
    if not isinstance(found, dict) or not found.get("Statement"):
        raise _malformed("it has no Statement")
    if found.get("Version", VERSIONS[0]) not in VERSIONS:
        raise _malformed("its Version is not known")
    statements = found["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    return Policy(tuple(_statement(each, of_key) for each in listed))


def _statement(found: Any, of_key: bool) -> _Statement:
    if not isinstance(found, dict) or found.get("Effect") not in ("Allow", "Deny"):
        raise _malformed("a statement's Effect is Allow or Deny")
    known = {"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
    if found.keys() - known:
        raise _malformed(f"{min(found.keys() - known)} is not known")
    if of_key == ("Principal" in found):
        raise _malformed("a bucket's policy has Principals, and a key's has none")
    resources = _either(found, "Resource")
    named = tuple(map(_resource, resources[0]))
    return _Statement(
        "allow" if found["Effect"] == "Allow" else "deny",
        None if of_key else _principals(found["Principal"]),
        (tuple(each.lower() for each in _either(found, "Action")[0]), "NotAction" in found),
        (named, "NotResource" in found),
        tuple(_conditions(found.get("Condition", {}))),
    )


def _either(found: Mapping[str, Any], name: str) -> tuple[list[str], bool]:
    if (name in found) == (f"Not{name}" in found):
        raise _malformed(f"a statement has either {name} or Not{name}")
    return _texts(found.get(name, found.get(f"Not{name}"))), f"Not{name}" in found


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _malformed("a list of texts has something else, or nothing")
    return texts


def _resource(text: str) -> str:
    if text == "*":
        return text
    name = text.removeprefix(RESOURCE)
    if name == text:
        raise S3Error("MalformedPolicy", "Policy has invalid resource")
    return name


def _principals(value: Any) -> tuple[str, ...]:
    if value == "*":
        return (PUBLIC,)
    if not isinstance(value, dict) or not value or value.keys() - {"AWS", "CanonicalUser"}:
        raise _no_principal()
    if PUBLIC in _texts(value.get("CanonicalUser", "")):
        raise _no_principal()
    return tuple(_principal(text) for listed in value.values() for text in _texts(listed))


def _principal(text: str) -> str:
    """`*`, a user's name, or arn:aws:iam::...:user/NAME or :root. A part of a name is nobody's."""
    match = _ARN.fullmatch(text)
    name = text if match is None else match["user"] or match["account"]
    if text != PUBLIC and (name.startswith("arn:") or set("*?") & set(text)):
        raise _no_principal()
    return name


def _no_principal() -> S3Error:
    return S3Error("MalformedPolicy", "Invalid principal in policy")


_TESTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "stringequals": str.__eq__,
    "stringlike": lambda value, wanted: _like(wanted, value),
    "stringequalsignorecase": lambda value, wanted: value.lower() == wanted.lower(),
    "bool": lambda value, wanted: value.lower() == wanted.lower(),
    "ipaddress": lambda value, wanted: _is_in(value, wanted),
    "numericequals": lambda value, wanted: _number(value) == _number(wanted),
    "numericlessthan": lambda value, wanted: _number(value) < _number(wanted),
    "numericlessthanequals": lambda value, wanted: _number(value) <= _number(wanted),
    "numericgreaterthan": lambda value, wanted: _number(value) > _number(wanted),
    "numericgreaterthanequals": lambda value, wanted: _number(value) >= _number(wanted),
    "datelessthan": str.__lt__,
    "datelessthanequals": str.__le__,
    "dategreaterthan": str.__gt__,
    "dategreaterthanequals": str.__ge__,
    "arnequals": str.__eq__,
    "arnlike": lambda value, wanted: _like(wanted, value),
}
"""Dates are compared as texts of one form."""
_NULL: Final = "null"
_NEGATED: Final = {
    "stringnotequals": "stringequals",
    "stringnotlike": "stringlike",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "notipaddress": "ipaddress",
    "numericnotequals": "numericequals",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
}

_OF_SIGNERS: Final = ("aws:username", "aws:userid")
_NARROW: Final = {4: 8, 6: 32}
"""The shortest prefix of a network that is not public, by the version of IP."""


def _conditions(found: Any) -> list[_Condition | _Absence]:
    if not isinstance(found, dict):
        raise _malformed("Condition is no object")
    conditions: list[_Condition | _Absence] = []
    for operator, keys in found.items():
        plain = operator.lower().removesuffix("ifexists")
        name = _NEGATED.get(plain, plain)
        if name not in (*_TESTS, _NULL) or not isinstance(keys, dict):
            raise _malformed(f"the condition {operator} is not known")
        for key, values in keys.items():
            listed = values if isinstance(values, list) else [values]
            texts = tuple(_text(value) for value in listed)
            _check_values(name, texts)
            if name == _NULL:
                conditions.append(_absence(key, texts))
                continue
            if_exists, negated = plain != operator.lower(), name != plain
            narrow = not if_exists and not negated and _is_narrow(name, key.lower(), texts)
            conditions.append(_Condition(_TESTS[name], key.lower(), texts, negated, if_exists, narrow))
    return conditions


def _is_narrow(name: str, key: str, values: Sequence[str]) -> bool:
    """Whether these values are few. Source: AWS, "Blocking public access", "The meaning of public"."""
    if name == "ipaddress" and key == "aws:sourceip":
        networks = [ipaddress.ip_network(value, strict=False) for value in values]
        return all(network.prefixlen >= _NARROW[network.version] for network in networks)
    is_of_texts = name.startswith(("string", "arn")) and key in _OF_SIGNERS
    return is_of_texts and not any(set("*?") & set(value) for value in values)


def _absence(key: str, values: Sequence[str]) -> _Absence:
    if values not in (("true",), ("false",)):
        raise _malformed("Null is true or false")
    return _Absence(key.lower(), values == ("true",))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int):
        raise _malformed("a condition's value is no text")
    return str(value)


def _check_values(name: str, values: Sequence[str]) -> None:
    try:
        for value in values:
            if name == "ipaddress":
                ipaddress.ip_network(value, strict=False)
            elif name.startswith("numeric"):
                float(value)
    except ValueError:
        raise _malformed("a condition's value is no address, or no number") from None


def _matches(wanted: tuple[tuple[str, ...], bool], value: str) -> bool:
    patterns, negated = wanted
    return any(_like(pattern, value) for pattern in patterns) != negated


def _like(pattern: str, value: str) -> bool:
    return pattern == "*" or _pattern(pattern).fullmatch(value) is not None


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    """`*` is any text, `?` any character; nothing else means something. What fnmatch makes of it goes back
    for no star but the last one, so that no pattern is slow."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def _is_in(value: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _malformed(why: str) -> S3Error:
    return S3Error("MalformedPolicy", f"The policy is not well-formed: {why}.")
