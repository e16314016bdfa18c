"""Policies: which allow, which deny, and which are refused when they are set."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.s3.objects import S3Error
from gateway.s3.policy import Question, of_bucket, parse

ARN = "arn:aws:s3:::"
NOW = {"aws__currenttime": "2026-11-28T15:00:00Z"}
NEVER_HELD: list[dict[str, Any]] = [
    {"Unknown": {"s3:prefix": "b"}},
    {"ForAnyValue:StringEquals": {"s3:prefix": "b"}},
    {"StringEquals": {}},
    {"StringEquals": {"s3:prefix": []}},
    {"StringEquals": {"aws:nonsense": "x"}},
    {"StringEqualsIfExists": {"aws:PrincipalArn": "arn:aws:iam::1:user/a"}},
    {"StringNotEquals": {"s3:authType": "REST-HEADER"}},
    {"StringEquals": {"s3:ExistingObjectTag/": "x"}},
    {"StringEquals": {"s3:prefix": "${aws:username}/"}},
    {"Null": {"aws:nonsense": "true"}},
    {"Null": {"s3:prefix": ["true", "false"]}},
    {"Bool": {"aws:SecureTransport": "maybe"}},
    {"NumericEquals": {"s3:max-keys": "nan"}},
    {"DateGreaterThan": {"aws:CurrentTime": "garbage"}},
    {"DateGreaterThan": {"aws:CurrentTime": "2026"}},
    {"DateLessThan": {"aws:CurrentTime": ["2026-01-01", "2026-02-30"]}},
]
NEVER_ASKED = (
    "s3:GetObjct",
    "GetObject",
    "s3:",
    "",
    "ec2:*",
    "s3:*Objects",
    "s3:PutObjectVersion",
    "s3:Get?ject",
)
PARTS_OF_NAMES = ("1:user/*", "1:*", "*:root", ":user/a*", "?:root", "1:role/alice", "*:user/alice")


def verdict(statements: Any, question: Question, bucket: str | None = "b") -> str:
    return parse(json.dumps({"Statement": statements}).encode(), bucket).verdict(question)


def statement(effect: str = "Allow", **more: Any) -> dict[str, Any]:
    base = {"Effect": effect, "Principal": "*", "Action": "s3:GetObject", "Resource": f"{ARN}b/*"}
    return {**base, **more}


def asked(action: str = "GetObject", resource: str = "b/k", who: str = "", **context: str) -> Question:
    names = {name.replace("__", ":").replace("_", "-"): value for name, value in context.items()}
    return Question(who, f"s3:{action}", resource, names)


@pytest.mark.parametrize(
    ("made", "question", "answer"),
    [
        (statement(), asked(), "allow"),
        (statement(), asked("PutObject"), ""),
        (statement(), asked(resource="other/k"), ""),
        (statement(), asked("getobject"), "allow"),
        (statement(Action="s3:*"), asked("PutObject"), "allow"),
        (statement(Action=["s3:Get*"]), asked("GetObjectAcl"), "allow"),
        (statement(Action="s3:*Version*Tagging"), asked("GetObjectVersionTagging"), "allow"),
        (statement(Resource=f"{ARN}b/a?c"), asked(resource="b/abc"), "allow"),
        (statement(Resource=f"{ARN}b/a?c"), asked(resource="b/ac"), ""),
        (statement(Resource=f"{ARN}b/[a]"), asked(resource="b/a"), ""),
        (statement(Principal={"AWS": "alice"}), asked(who="alice"), "allow"),
        (statement(Principal={"AWS": "alice"}), asked(who="bob"), ""),
        (statement(Principal={"AWS": ["arn:aws:iam:::user/alice"]}), asked(who="alice"), "allow"),
        (statement(Principal={"AWS": "arn:aws:iam::alice:root"}), asked(who="alice"), "allow"),
        (statement(Principal={"AWS": "*"}), asked(), "allow"),
        (statement(Principal={"AWS": ""}), asked(), ""),
        ([statement(), statement("Deny", Resource=f"{ARN}b/s*")], asked(resource="b/secret"), "deny"),
        ([statement(), statement("Deny", NotResource=f"{ARN}b/k*", Resource=None)], asked(), "allow"),
    ],
)
def test_verdicts(made: Any, question: Question, answer: str) -> None:
    listed = made if isinstance(made, list) else [made]
    cleaned = [{name: value for name, value in each.items() if value is not None} for each in listed]
    assert verdict(cleaned, question) == answer


@pytest.mark.parametrize(
    ("condition", "context", "answer"),
    [
        ({"StringEquals": {"s3:prefix": "a"}}, {"s3__prefix": "a"}, "allow"),
        ({"StringEquals": {"s3:prefix": "a"}}, {}, ""),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {}, "allow"),
        ({"StringNotEquals": {"s3:prefix": "a"}}, {"s3__prefix": "a"}, ""),
        ({"StringLike": {"aws:referer": ["http://x/*"]}}, {"aws__referer": "http://x/y"}, "allow"),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws__sourceip": "10.1.2.3"}, "allow"),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws__sourceip": "11.1.2.3"}, ""),
        ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws__sourceip": "11.1.2.3"}, "allow"),
        ({"Null": {"s3:prefix": "true"}}, {}, "allow"),
        ({"Null": {"s3:prefix": True}}, {"s3__prefix": "a"}, ""),
        ({"Null": {"s3:prefix": "false"}}, {"s3__prefix": "a"}, "allow"),
        ({"Bool": {"aws:SecureTransport": True}}, {"aws__securetransport": "true"}, "allow"),
        ({"NumericLessThan": {"s3:max-keys": "10"}}, {"s3__max_keys": "5"}, "allow"),
        ({"NumericLessThan": {"s3:max-keys": 10}}, {"s3__max_keys": "x"}, ""),
        ({"NumericNotEquals": {"s3:max-keys": 10}}, {"s3__max_keys": "5"}, "allow"),
        ({"Bool": {"aws:SecureTransport": "False"}}, {"aws__securetransport": "false"}, "allow"),
        ({"DateLessThan": {"aws:CurrentTime": "2030-01-01"}}, NOW, "allow"),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-28T14:00:00-05:00"}}, NOW, "allow"),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-28T16:00:00+02:00"}}, NOW, ""),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-28T15:00:01.5Z"}}, NOW, "allow"),
        ({"DateGreaterThan": {"aws:CurrentTime": "20261128T145959Z"}}, NOW, "allow"),
        ({"DateGreaterThan": {"aws:CurrentTime": "20261129"}}, NOW, ""),
        ({"DateLessThan": {"aws:CurrentTime": "999999999"}}, NOW, ""),
        ({"DateGreaterThan": {"aws:EpochTime": "999999999"}}, {"aws__epochtime": "1000000000"}, "allow"),
        ({"DateGreaterThan": {"aws:EpochTime": "2001-01-01"}}, {"aws__epochtime": "1000000000"}, "allow"),
        ({"NumericGreaterThan": {"aws:EpochTime": 999999999}}, {"aws__epochtime": "1000000000"}, "allow"),
        ({"DateEquals": {"aws:CurrentTime": "2026-11-28T16:00:00+01:00"}}, NOW, "allow"),
        ({"DateNotEquals": {"aws:CurrentTime": "2026-11-28T16:00:00+01:00"}}, NOW, ""),
    ],
)
def test_conditions(condition: Any, context: dict[str, str], answer: str) -> None:
    assert verdict(statement(Condition=condition), asked(**context)) == answer


@pytest.mark.parametrize(
    "made",
    [
        statement(Effect="Maybe"),
        statement(Resource="b/*"),
        statement(Resource=f"{ARN}other/*"),
        statement(Principal={"Federated": "x"}),
        statement(Principal={}),
        *(statement(Principal={"AWS": f"arn:aws:iam::{name}"}) for name in PARTS_OF_NAMES),
        statement(Principal={"AWS": ["alice", "b*"]}),
        statement(Principal={"AWS": "arn:aws:sts::1:assumed-role/alice"}),
        statement(Principal={"CanonicalUser": "*"}),
        statement(Principal={"AWS": "*", "CanonicalUser": "a?"}),
        statement(Action=[]),
        *(statement("Deny", Action=["s3:*", action]) for action in NEVER_ASKED),
        statement("Deny", NotAction="s3:GetObjct", Action=None),
        statement(Resource=ARN),
        statement(NotAction="s3:GetObject"),
        *(statement(Condition=condition) for condition in NEVER_HELD),
        statement(Resource=f"{ARN}b/${{aws:username}}/*"),
        statement(Condition={"IpAddress": {"aws:SourceIp": "nonsense"}}),
        statement(Condition={"Null": {"s3:prefix": "perhaps"}}),
        statement(Other=1),
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
    ],
)
def test_what_is_not_understood_is_refused(made: Any) -> None:
    cleaned = {name: value for name, value in made.items() if value is not None}
    with pytest.raises(S3Error) as caught:
        verdict(cleaned, asked())
    assert caught.value.code == "MalformedPolicy"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"Version": "1", "Statement": {}}',
        b" " * 30_000,
        b"[" * 20_000,
        json.dumps({"Statement": statement()})[:-1].encode() + b', "Statement": []}',
    ],
)
def test_what_is_no_policy(document: bytes) -> None:
    with pytest.raises(S3Error):
        parse(document, "b")


def test_a_key_has_a_policy_without_principals() -> None:
    own = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    assert verdict(own, asked(who="alice"), bucket=None) == "allow"
    with pytest.raises(S3Error):
        verdict(statement(), asked(), bucket=None)


def test_no_pattern_is_slow() -> None:
    began = time.perf_counter()
    assert verdict(statement(Resource=f"{ARN}b/{'*a' * 200}"), asked(resource=f"b/{'a' * 1000}b")) == ""
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "made",
    [
        statement(),
        statement("Deny", Action="s3:*"),
        statement("Deny", NotResource=f"{ARN}b/k", Resource=None),
        statement(NotResource=f"{ARN}b/secret", Resource=None),
    ],
)
def test_in_a_bucket_of_another_name_a_policy_says_nothing(made: Any) -> None:
    cleaned = {name: value for name, value in made.items() if value is not None}
    document = json.dumps({"Statement": [cleaned]}).encode()
    assert of_bucket(document, "renamed").verdict(asked(resource="renamed/k")) == ""
    assert not of_bucket(document, "renamed").is_public
    assert of_bucket(document, "b") == parse(document, "b")
