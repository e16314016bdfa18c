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

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from gateway.s3 import actions
from gateway.s3.conditions import TAG_KEYS, Condition, conditions_of, like, malformed_policy
from gateway.s3.objects import S3Error

MAX_POLICY: Final = 20 << 10
VERSIONS: Final = ("2012-10-17", "2008-10-17")
RESOURCE: Final = "arn:aws:s3:::"
PUBLIC: Final = "*"
_ARN: Final = re.compile("arn:aws:iam::(?P<account>[^:]*):(root|user/(?P<user>.+))")

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
class _Statement:
    effect: Verdict
    principals: tuple[str, ...] | None
    """None: of an identity policy, which is about whose it is"""
    actions: tuple[tuple[str, ...], bool]
    resources: tuple[tuple[str, ...], bool]
    conditions: tuple[Condition, ...]

    def applies(self, question: Question) -> bool:
        return (
            self._is_about(question.principal)
            and _matches(self.actions, question.action.lower())
            and _matches(self.resources, question.resource)
            and all(condition.holds(question.context) for condition in self.conditions)
        )

    def is_of(self, bucket: str) -> bool:
        """Whether all resources that it names may be of this bucket."""
        return all(like(name.split("/")[0], bucket) for name in self.resources[0])

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
        raise malformed_policy("it is too large")
    try:
        found = json.loads(document, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise malformed_policy("it is no JSON") from None
    if not isinstance(found, dict) or not found.get("Statement"):
        raise malformed_policy("it has no Statement")
    if found.get("Version", VERSIONS[0]) not in VERSIONS:
        raise malformed_policy("its Version is not known")
    statements = found["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    return Policy(tuple(_statement(each, of_key) for each in listed))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise malformed_policy("an object has a name twice")
    return dict(pairs)


def _statement(found: Any, of_key: bool) -> _Statement:
    if not isinstance(found, dict) or found.get("Effect") not in ("Allow", "Deny"):
        raise malformed_policy("a statement's Effect is Allow or Deny")
    known = {"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
    if found.keys() - known:
        raise malformed_policy(f"{min(found.keys() - known)} is not known")
    if of_key == ("Principal" in found):
        raise malformed_policy("a bucket's policy has Principals, and a key's has none")
    resources = _either(found, "Resource")
    named = tuple(map(_resource, resources[0]))
    return _Statement(
        "allow" if found["Effect"] == "Allow" else "deny",
        None if of_key else _principals(found["Principal"]),
        (tuple(map(_action, _either(found, "Action")[0])), "NotAction" in found),
        (named, "NotResource" in found),
        tuple(conditions_of(found.get("Condition", {}))),
    )


def _either(found: Mapping[str, Any], name: str) -> tuple[list[str], bool]:
    if (name in found) == (f"Not{name}" in found):
        raise malformed_policy(f"a statement has either {name} or Not{name}")
    return _texts(found.get(name, found.get(f"Not{name}"))), f"Not{name}" in found


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise malformed_policy("a list of texts has something else, or nothing")
    return texts


def _action(text: str) -> str:
    """In lower case. One that is never asked about would deny nothing."""
    pattern = text.lower()
    if not any(like(pattern, known) for known in actions.KNOWN):
        raise malformed_policy(f"the action {text} is not known")
    return pattern


def _resource(text: str) -> str:
    if text == "*":
        return text
    name = text.removeprefix(RESOURCE)
    if name in (text, "") or "${" in name:  # variables are not served
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


def _matches(wanted: tuple[tuple[str, ...], bool], value: str) -> bool:
    patterns, negated = wanted
    return any(like(pattern, value) for pattern in patterns) != negated
