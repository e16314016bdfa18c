"""What nobody, others and keys with a policy get: boto3 over a real socket."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from gateway.s3.call import Settings
from gateway.s3.objects import open_objects
from tests.unit.gateway.s3.doors import ask, body, policy_of, refused
from tests.unit.gateway.s3.served import REGION, Served, serving


def test_nobody_gets_anything(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret")
    for method, target in (
        ("GET", f"/{bucket}/k"),
        ("GET", f"/{bucket}"),
        ("PUT", f"/{bucket}/x"),
        ("DELETE", f"/{bucket}/k"),
        ("PUT", "/new-bucket"),
    ):
        status, _, answer = ask(served, method, target)
        assert (status, b"<Code>AccessDenied</Code>" in answer) == (403, True), (method, target)
    assert b"<Bucket>" not in ask(served, "GET", "/")[2]
    many = b"<Delete><Object><Key>k</Key></Object></Delete>"
    status, _, answer = ask(served, "POST", f"/{bucket}?delete", {}, many)
    assert b"<Error><Key>k</Key><Code>AccessDenied</Code>" in answer
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"secret"
    for call in (served.client("other").get_object, served.client("other").delete_object):
        with refused("AccessDenied", 403):
            call(Bucket=bucket, Key="k")


def test_a_policy_lets_others_read_what_it_names(served: Served, s3: Any, bucket: str) -> None:
    for key in ("open/k", "closed/k"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"data")
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/open/*",
    }
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert ask(served, "GET", f"/{bucket}/open/k")[::2] == (200, b"data")
    assert ask(served, "GET", f"/{bucket}/closed/k")[0] == 403
    assert ask(served, "GET", f"/{bucket}/open/../closed/k")[0] in (403, 404)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    block = {"RestrictPublicBuckets": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert ask(served, "GET", f"/{bucket}/open/k")[0] == 403
    s3.delete_public_access_block(Bucket=bucket)
    denied = {
        "Effect": "Deny",
        "Principal": {"AWS": "user"},
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": [denied]}))
    with refused("AccessDenied"):
        s3.delete_object(Bucket=bucket, Key="open/k")


def test_canned_access_lists(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data", ACL="public-read")
    s3.put_object(Bucket=bucket, Key="private", Body=b"data")
    assert ask(served, "GET", f"/{bucket}/k")[::2] == (200, b"data")
    assert ask(served, "GET", f"/{bucket}/private")[0] == 403
    grants = s3.get_object_acl(Bucket=bucket, Key="k")["Grants"]
    assert [grant["Permission"] for grant in grants] == ["READ", "FULL_CONTROL"]
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    assert ask(served, "GET", f"/{bucket}/k")[0] == 403


def test_a_key_with_a_policy_may_what_that_allows(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="open/k", Body=b"data")["VersionId"]
    s3.put_object(Bucket=bucket, Key="closed/k", Body=b"data")
    actions = ["s3:GetObject", "s3:PutObject"]
    allowed = {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::{bucket}/open/*"}
    document = json.dumps({"Statement": [allowed]}).encode()
    key = served.run(served.keys.add, "user", "restricted", document)
    restricted = replace(served, user=key).client()
    assert body(restricted.get_object(Bucket=bucket, Key="open/k")) == b"data"
    restricted.put_object(Bucket=bucket, Key="open/new", Body=b"data")
    restricted.copy_object(Bucket=bucket, Key="open/copy", CopySource=f"{bucket}/open/k")
    versioned = {"Bucket": bucket, "Key": "open/k", "VersionId": version}
    for call, arguments in (
        (restricted.get_object, {"Bucket": bucket, "Key": "closed/k"}),
        (restricted.get_object, versioned),
        (restricted.head_object, versioned),
        (restricted.put_object, {"Bucket": bucket, "Key": "closed/k", "Body": b""}),
        (restricted.put_object, {"Bucket": bucket, "Key": "open/k", "Body": b"", "ACL": "public-read"}),
        (restricted.copy_object, {"Bucket": bucket, "Key": "open/k", "CopySource": f"{bucket}/closed/k"}),
        (restricted.delete_object, {"Bucket": bucket, "Key": "open/k"}),
        (restricted.list_objects_v2, {"Bucket": bucket}),
        (restricted.delete_bucket, {"Bucket": bucket}),
        (restricted.put_bucket_policy, {"Bucket": bucket, "Policy": document.decode()}),
        (restricted.create_bucket, {"Bucket": "another-bucket"}),
        (restricted.list_buckets, {}),
    ):
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, (call, arguments)


def test_a_policy_locks_no_owner_out_for_good(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    denied = policy_of("Deny", bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=denied)
    with refused("AccessDenied", 403):
        s3.get_object(Bucket=bucket, Key="k")
    with refused("AccessDenied", 403):
        served.client("other").delete_bucket_policy(Bucket=bucket)
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == denied
    s3.put_bucket_policy(Bucket=bucket, Policy=denied)
    s3.delete_bucket_policy(Bucket=bucket)
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"data"


def test_a_bucket_that_the_mount_renamed_has_no_policy_of_the_old_name(
    served: Served, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy_of("Allow", bucket))
    new = f"{bucket}-new"
    served.run(served.drive.rename, 1, bucket.encode(), 1, new.encode())
    assert body(s3.get_object(Bucket=new, Key="k")) == b"data"
    assert not s3.get_bucket_policy_status(Bucket=new)["PolicyStatus"]["IsPublic"]
    with refused("AccessDenied", 403):
        served.client("other").get_object(Bucket=new, Key="k")
    assert s3.get_bucket_policy(Bucket=new)["Policy"] == policy_of("Allow", bucket)
    s3.put_bucket_policy(Bucket=new, Policy=policy_of("Allow", new))
    assert body(served.client("other").get_object(Bucket=new, Key="k")) == b"data"


def test_a_policy_that_cannot_be_read_denies_all_but_to_set_another(
    served: Served, s3: Any, bucket: str
) -> None:
    layer = served.run(open_objects, served.drive)
    served.run(layer.set_setting, bucket, "policy", b"{}")
    with refused("AccessDenied", 403):
        s3.list_objects_v2(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_unknown_keys_and_wrong_secrets(served: Served, bucket: str) -> None:
    unknown = replace(served, user=replace(served.user, key_id="AKIAUNKNOWN"))
    with refused("InvalidAccessKeyId", 403):
        unknown.client().list_buckets()
    wrong = replace(served, user=replace(served.user, secret="wrong"))
    with refused("SignatureDoesNotMatch", 403):
        wrong.client().list_buckets()


def test_presigned(served: Served, s3: Any, bucket: str) -> None:
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b/é"}, ExpiresIn=60)
    assert ask(served, "PUT", url, {}, b"data")[0] == 200
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b/é"}, ExpiresIn=60)
    assert ask(served, "GET", url)[::2] == (200, b"data")
    assert ask(served, "GET", url + "0")[0] == 403
    assert ask(served, "GET", url, {"x-amz-acl": "private"})[0] == 403
    streaming = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    assert ask(served, "PUT", url, streaming, b"0\r\n\r\n")[0] == 403


def test_behind_a_proxy_the_host_that_clients_know_is_what_they_sign(tmp_path: Path) -> None:
    with serving(tmp_path, Settings(REGION, external="s3.example.com")) as served:
        asked = AWSRequest("GET", "http://s3.example.com/")
        credentials = Credentials(served.user.key_id, served.user.secret)
        S3SigV4QueryAuth(credentials, "s3", REGION, expires=60).add_auth(asked)
        assert ask(served, "GET", asked.url)[0] == 200
        assert ask(served, "GET", asked.url, {"host": "s3.example.com"})[0] == 200
        assert ask(served, "GET", asked.url, {"host": "bucket.s3.example.com"})[0] == 403
