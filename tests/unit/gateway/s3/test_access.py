"""Whom the door lets do something, by policies and access lists: boto3 over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.s3.conditions import KEYS
from gateway.s3.objects import Checksums, Metadata, OpenObject
from tests.unit.gateway.s3.doors import ask, status_of
from tests.unit.gateway.s3.served import Served

LISTS_AND_READS = ["s3:ListBucket", "s3:GetObjectVersion"]
OBJECTS = ["s3:GetObject", "s3:GetObjectVersion"]
READ = {200, 206}
TAGGED = {"StringEquals": {"s3:ExistingObjectTag/secret": "yes"}}


def statement(bucket: str, effect: str, actions: Any, **more: Any) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return {"Effect": effect, "Action": actions, "Resource": resources, **more}


def restricted(served: Served, *statements: dict[str, Any]) -> Any:
    """A client of the first user, whose key has a policy."""
    document = json.dumps({"Statement": list(statements)}).encode()
    return replace(served, user=served.run(served.keys.add, "user", "", document)).client()


def set_policy(s3: Any, bucket: str, *statements: dict[str, Any]) -> None:
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": list(statements)}))


def allowed_by(place: str, served: Served, s3: Any, bucket: str, *actions: str) -> Any:
    """A client that may do this alone, by the policy of its key or of the bucket."""
    allowed = statement(bucket, "Allow", actions)
    if place == "key":
        return restricted(served, allowed)
    set_policy(s3, bucket, allowed | {"Principal": {"AWS": "other"}})
    return served.client("other")


def reads(client: Any, bucket: str, key: str, version: str | None = None) -> list[int]:
    """The answers to each way to read an object, or a version."""
    named = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})
    upload = {"Bucket": bucket, "Key": "parts"}
    upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
    return [
        status_of(client.get_object, **named),
        status_of(client.head_object, **named),
        status_of(client.head_object, **named, PartNumber=1),
        status_of(client.get_object_attributes, **named, ObjectAttributes=["ETag"]),
        status_of(client.copy_object, Bucket=bucket, Key="copy", CopySource=named),
        status_of(client.upload_part_copy, **upload, PartNumber=1, CopySource=named),
    ]


@pytest.mark.parametrize("place", ["key", "bucket"])
def test_a_denial_by_tag_is_about_the_version_that_is_read(
    served: Served, s3: Any, bucket: str, place: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    tagged = {"Bucket": bucket, "Key": "k", "Body": b"data", "Tagging": "secret=yes"}
    secret = s3.put_object(**tagged)["VersionId"]
    allowed, denied = statement(bucket, "Allow", "s3:*"), statement(bucket, "Deny", OBJECTS, Condition=TAGGED)
    if place == "key":
        client = restricted(served, allowed, denied)
    else:
        client, principal = served.client("other"), {"Principal": {"AWS": "other"}}
        set_policy(s3, bucket, allowed | principal, denied | principal)
    assert set(reads(client, bucket, "k")) == {403}
    public = s3.put_object(Bucket=bucket, Key="k", Body=b"data")["VersionId"]
    assert set(reads(client, bucket, "k")) == READ
    assert set(reads(client, bucket, "k", secret)) == {403}
    s3.put_object(**tagged)
    assert set(reads(client, bucket, "k", public)) == READ


@pytest.mark.parametrize("place", ["key", "bucket"])
@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_conditions_are_about_the_tags_that_a_request_gives(
    served: Served, s3: Any, bucket: str, place: str, effect: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"data", Tagging="old=tag")["VersionId"]
    value = "yes" if effect == "Allow" else "no"
    condition = {"StringEquals": {"s3:RequestObjectTag/Secret": value}}
    statements = [statement(bucket, effect, ["s3:Put*"], Condition=condition)]
    statements.append(statement(bucket, "Allow", ["s3:Get*"] if effect == "Allow" else "s3:*"))
    if place == "key":
        client = restricted(served, *statements)
    else:
        client = served.client("other")
        set_policy(s3, bucket, *(each | {"Principal": {"AWS": "other"}} for each in statements))

    def answers(value: str) -> list[int]:
        new, tagging = {"Bucket": bucket, "Key": "new"}, f"a=b%3D%26c&Secret={value}"
        document = {"TagSet": [{"Key": "a", "Value": "b=&c"}, {"Key": "Secret", "Value": value}]}
        replacing = {"CopySource": f"{bucket}/k", "TaggingDirective": "REPLACE"}
        named = {"Bucket": bucket, "Key": "k", "Tagging": document}
        return [
            status_of(client.put_object, **new, Body=b"data", Tagging=tagging),
            status_of(client.create_multipart_upload, **new, Tagging=tagging),
            status_of(client.copy_object, **new, **replacing, Tagging=tagging),
            status_of(client.put_object_tagging, **named),
            status_of(client.put_object_tagging, **named, VersionId=version),
        ]

    assert answers("no") == [403] * 5
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "old", "Value": "tag"}]
    assert answers("yes") == [200] * 5


def test_a_version_is_another_action(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"data")["VersionId"]
    actions = ["s3:*Object", "s3:*ObjectTagging", "s3:*ObjectAcl"]
    client = restricted(served, statement(bucket, "Allow", actions))
    assert set(reads(client, bucket, "k")) == READ
    assert set(reads(client, bucket, "k", version)) == {403}
    named = {"Bucket": bucket, "Key": "k"}
    for call, arguments in (
        (client.get_object_tagging, named),
        (client.put_object_tagging, named | {"Tagging": {"TagSet": []}}),
        (client.get_object_acl, named),
        (client.put_object_acl, named | {"ACL": "private"}),
        (client.delete_object_tagging, named),
        (client.delete_object, named),
    ):
        assert status_of(call, **arguments, VersionId=version) == 403, call
        assert status_of(call, **arguments) < 300, call
    everything = restricted(served, statement(bucket, "Allow", "s3:*"))
    assert set(reads(everything, bucket, "k", version)) == READ


@pytest.mark.parametrize("who", ["other", "nobody", "user"])
def test_an_access_list_lets_only_the_owner_take_versions_away_for_good(
    served: Served, s3: Any, bucket: str, who: str
) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = [s3.put_object(Bucket=bucket, Key="k", Body=b"data")["VersionId"] for _ in range(2)]
    client, is_owner = served.client(who), who == "user"
    for version in (*versions, "null"):
        code = status_of(client.delete_object, Bucket=bucket, Key="k", VersionId=version)
        assert code == (204 if is_owner else 403)
        listed = {"Objects": [{"Key": "k", "VersionId": version}]}
        errors = client.delete_objects(Bucket=bucket, Delete=listed).get("Errors", [])
        assert [error["Code"] for error in errors] == ([] if is_owner else ["AccessDenied"])
    left = {each["VersionId"] for each in s3.list_object_versions(Bucket=bucket).get("Versions", [])}
    assert left == (set() if is_owner else {*versions})
    assert client.delete_object(Bucket=bucket, Key="k")["DeleteMarker"]


def test_a_copy_tells_no_stranger_which_keys_there_are(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="there", Body=b"data")
    stranger, own = served.client("other"), f"{bucket}-own"
    stranger.create_bucket(Bucket=own)
    upload = stranger.create_multipart_upload(Bucket=own, Key="parts")["UploadId"]

    def answers(key: str) -> tuple[int, int, int]:
        source = {"Bucket": bucket, "Key": key}
        part = {"Bucket": own, "Key": "parts", "UploadId": upload, "PartNumber": 1}
        return (
            status_of(stranger.get_object, **source),
            status_of(stranger.copy_object, Bucket=own, Key="copy", CopySource=source),
            status_of(stranger.upload_part_copy, **part, CopySource=source),
        )

    assert answers("there") == answers("missing") == (403, 403, 403)
    set_policy(s3, bucket, statement(bucket, "Allow", "s3:ListBucket", Principal={"AWS": "other"}))
    assert (answers("there"), answers("missing")) == ((403, 403, 403), (404, 404, 404))


EVERYBODY_MEETS = [
    {"IpAddress": {"aws:SourceIp": ["0.0.0.0/0", "::/0"]}},
    {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "126.0.0.0/7"]}},
    {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
    {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}},
    {"StringNotEquals": {"aws:Referer": "http://evil.example"}},
    {"StringNotEquals": {"aws:username": "carol"}},
    {"StringLike": {"aws:UserAgent": "*"}},
    {"IpAddressIfExists": {"aws:SourceIp": "127.0.0.1/32"}},
    {"Null": {"aws:Referer": "true"}},
]


@pytest.mark.parametrize("condition", EVERYBODY_MEETS)
def test_a_condition_that_everybody_meets_leaves_a_policy_public(
    served: Served, s3: Any, bucket: str, condition: dict[str, Any]
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    public = statement(bucket, "Allow", "s3:GetObject", Principal="*", Condition=condition)
    set_policy(s3, bucket, public)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    assert status_of(served.client("nobody").get_object, Bucket=bucket, Key="k") == 200
    blocks = {"BlockPublicPolicy": True, "RestrictPublicBuckets": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocks)
    for who in ("nobody", "other"):
        assert status_of(served.client(who).get_object, Bucket=bucket, Key="k") == 403
    document = json.dumps({"Statement": [public]})
    assert status_of(s3.put_bucket_policy, Bucket=bucket, Policy=document) == 403


@pytest.mark.parametrize(
    ("condition", "who"),
    [
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, "nobody"),
        ({"StringEquals": {"aws:username": ["other", "carol"]}}, "other"),
    ],
)
def test_a_condition_that_few_meet_keeps_a_policy_from_being_public(
    served: Served, s3: Any, bucket: str, condition: dict[str, Any], who: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"BlockPublicPolicy": True})
    set_policy(s3, bucket, statement(bucket, "Allow", "s3:GetObject", Principal="*", Condition=condition))
    assert not s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    assert status_of(served.client(who).get_object, Bucket=bucket, Key="k") == 200
    blocks = {"RestrictPublicBuckets": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocks)
    expected = 403 if who == "nobody" else 200
    assert status_of(served.client(who).get_object, Bucket=bucket, Key="k") == expected


GRANT = 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'


@pytest.mark.parametrize("place", ["key", "bucket"])
def test_whoever_may_only_put_sets_no_access_list_and_no_tags(
    served: Served, s3: Any, bucket: str, place: str
) -> None:
    def client(*actions: str) -> Any:
        return allowed_by(place, served, s3, bucket, "s3:PutObject", "s3:GetObject", *actions)

    def answers(of: Any, **more: str) -> list[int]:
        new = {"Bucket": bucket, "Key": "new", **more}
        replacing = {"TaggingDirective": "REPLACE"} if "Tagging" in more else {}
        source = {"CopySource": f"{bucket}/k", **replacing}
        return [
            status_of(of.put_object, **new, Body=b"data"),
            status_of(of.create_multipart_upload, **new),
            status_of(of.copy_object, **new, **source),
        ]

    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    wanted = {
        "s3:PutObjectAcl": [{"ACL": "public-read"}, {"GrantRead": GRANT}, {"GrantFullControl": "id=other"}],
        "s3:PutObjectTagging": [{"Tagging": "a=b"}],
    }
    for action, additions in wanted.items():
        for more in additions:
            assert answers(client(), **more) == [403] * 3, more
            assert answers(client(action), **more) == [200] * 3, more
    assert answers(client()) == answers(client(), ACL="private") == [200] * 3


@pytest.mark.parametrize("key", KEYS)
def test_every_known_condition_key_is_filled(served: Served, s3: Any, bucket: str, key: str) -> None:
    condition = {"Null": {key: "false"}}
    set_policy(s3, bucket, statement(bucket, "Deny", LISTS_AND_READS, Principal="*", Condition=condition))
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"data").get("VersionId", "null")
    presigned = {
        "list_objects": {"Bucket": bucket, "Prefix": "k", "Delimiter": "/", "MaxKeys": 5},
        "get_object": {"Bucket": bucket, "Key": "k", "VersionId": version},
    }
    answers = set()
    for name, parameters in presigned.items():
        url = s3.generate_presigned_url(name, Params=parameters)
        answers.add(ask(served, "GET", url, {"user-agent": "test", "referer": "test"})[0])
    assert 403 in answers


def test_whoever_may_only_make_buckets_makes_none_public(served: Served, bucket: str) -> None:
    def client(*actions: str) -> Any:
        return restricted(
            served, {"Effect": "Allow", "Action": ["s3:CreateBucket", *actions], "Resource": "*"}
        )

    for more, action in (
        ({"ACL": "public-read"}, "s3:PutBucketAcl"),
        ({"GrantRead": GRANT}, "s3:PutBucketAcl"),
        ({"ObjectOwnership": "ObjectWriter"}, "s3:PutBucketOwnershipControls"),
    ):
        name = f"{bucket}-{len(str(more))}"
        assert status_of(client().create_bucket, Bucket=name, **more) == 403
        assert status_of(client(action).create_bucket, Bucket=name, **more) == 200
    assert status_of(client().create_bucket, Bucket=f"{bucket}-plain") == 200


def test_a_bucket_that_is_yet_to_be_has_its_name_in_policies(served: Served, bucket: str) -> None:
    resource = f"arn:aws:s3:::{bucket}-own*"
    make = {"Effect": "Allow", "Action": ["s3:CreateBucket", "s3:PutBucketAcl"], "Resource": resource}
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    only, none_such = restricted(served, make), restricted(served, everything, make | {"Effect": "Deny"})
    for name, allowed in (("own-1", True), ("other-1", False)):
        expected = {only: 200 if allowed else 403, none_such: 403 if allowed else 200}
        for number, (client, answer) in enumerate(expected.items()):
            made = {"Bucket": f"{bucket}-{name}{number}"}
            assert status_of(client.create_bucket, **made) == answer
            assert (
                status_of(client.create_bucket, **made | {"Bucket": f"{made['Bucket']}p"}, ACL="public-read")
                == answer
            )
    assert status_of(only.list_buckets) == 403
    assert status_of(none_such.list_buckets) == 200


@pytest.mark.parametrize(
    ("setting", "change", "code"),
    [
        ("cors", {"CORSConfiguration": {"CORSRules": []}}, 501),
        ("lifecycle_configuration", {"LifecycleConfiguration": {"Rules": []}}, 501),
        ("logging", {"BucketLoggingStatus": {}}, 501),
    ],
)
def test_a_setting_that_nothing_has_is_read_by_an_action_of_its_own(
    served: Served, s3: Any, bucket: str, setting: str, change: dict[str, Any], code: int
) -> None:
    actions = ["s3:GetBucketCORS", "s3:GetLifecycleConfiguration", "s3:GetBucketLogging"]
    client = restricted(served, statement(bucket, "Allow", actions))
    get, put = (f"{verb}_bucket_{setting}" for verb in ("get", "put"))
    assert status_of(getattr(client, get), Bucket=bucket) == status_of(getattr(s3, get), Bucket=bucket) != 403
    assert status_of(getattr(client, put), Bucket=bucket, **change) == 403
    assert status_of(getattr(s3, put), Bucket=bucket, **change) == code


@pytest.mark.parametrize("place", ["key", "bucket"])
def test_a_copy_takes_tags_along_only_for_whoever_may_read_and_set_them(
    served: Served, s3: Any, bucket: str, place: str
) -> None:
    def client(*actions: str) -> Any:
        return allowed_by(place, served, s3, bucket, "s3:PutObject", "s3:GetObject", *actions)

    both = ("s3:GetObjectTagging", "s3:PutObjectTagging")
    source = {"Bucket": bucket, "Key": "tagged"}
    s3.put_object(**source, Body=b"data", Tagging="a=b")
    s3.put_object(Bucket=bucket, Key="plain", Body=b"data")
    copy = {"Bucket": bucket, "Key": "copy"}
    for actions, expected in (((), 403), (both[:1], 403), (both[1:], 403), (both, 200)):
        who = client(*actions)
        assert status_of(who.copy_object, **copy, CopySource=source) == expected, actions
        assert status_of(who.copy_object, **copy, CopySource={"Bucket": bucket, "Key": "plain"}) == 200
        assert status_of(who.copy_object, **copy, CopySource=source, TaggingDirective="REPLACE") == 200
    client(*both).copy_object(**copy, CopySource=source)
    assert s3.get_object_tagging(**copy)["TagSet"] == [{"Key": "a", "Value": "b"}]


def test_a_copy_takes_no_other_state_than_the_one_it_was_allowed(
    served: Served, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is replaced by a secret one, while its bytes are read for their checksum."""
    layer, opened = served.layer, served.layer.open

    class Replacing:
        def __init__(self, found: OpenObject) -> None:
            self.info, self.part, self.close = found.info, found.part, found.close
            self._found = found

        async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
            async for piece in self._found.read(start, end):
                yield piece
            monkeypatch.setattr(layer, "open", opened)
            secret = Metadata(owner="user", tags={"secret": "yes"})
            await layer.put(bucket, b"k", pieces(b"secret"), None, secret, lambda _: Checksums())

    monkeypatch.setattr(layer, "open", lambda *asked: Replacing(opened(*asked)))
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    allowed, denied = statement(bucket, "Allow", "s3:*"), statement(bucket, "Deny", OBJECTS, Condition=TAGGED)
    client = restricted(served, allowed, denied)
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": f"{bucket}/k", "ChecksumAlgorithm": "SHA256"}
    assert status_of(client.copy_object, **copy) == 503
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"secret"
    assert status_of(client.copy_object, **copy) == 403
    assert status_of(s3.head_object, Bucket=bucket, Key="copy") == 404


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data
