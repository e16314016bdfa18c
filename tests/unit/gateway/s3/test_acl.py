"""Access lists: canned ones, lists of grants, and whom they let do something."""

from __future__ import annotations

import pytest

from gateway.s3 import acl
from gateway.s3.objects import S3Error
from gateway.s3.request import Request


def users() -> frozenset[str]:
    return frozenset({"alice", "bob"})


def asked(**headers: str) -> str:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return acl.asked(Request.of("PUT", b"/b", b"", named), users)


@pytest.mark.parametrize(
    ("name", "permission", "user", "answer"),
    [
        ("private", "READ", "", False),
        ("private", "READ", "alice", False),
        ("public-read", "READ", "", True),
        ("public-read", "WRITE", "alice", False),
        ("public-read-write", "WRITE", "", True),
        ("authenticated-read", "READ", "", False),
        ("authenticated-read", "READ", "alice", True),
        ("bucket-owner-read", "READ", "owner", True),
        ("bucket-owner-read", "READ", "alice", False),
        ("bucket-owner-full-control", "WRITE_ACP", "owner", True),
        ("", "READ", "alice", False),
    ],
)
def test_canned_lists(name: str, permission: str, user: str, answer: bool) -> None:
    assert acl.allows(name, permission, user, "owner") is answer


def test_grants_by_header() -> None:
    made = asked(x_amz_grant_read='id="alice", uri="http://acs.amazonaws.com/groups/global/AllUsers"')
    assert acl.allows(made, "READ", "", "owner")
    assert acl.is_public(made)
    made = asked(x_amz_grant_full_control="id=alice", x_amz_grant_read_acp="id=bob")
    assert acl.allows(made, "WRITE", "alice", "owner")
    assert not acl.allows(made, "READ", "bob", "owner")
    assert acl.allows(made, "READ_ACP", "bob", "owner")
    assert not acl.is_public(made)
    assert asked() == ""


def test_a_list_that_is_shown_can_be_given_back() -> None:
    for name in ("private", "public-read-write", "bucket-owner-read"):
        document = acl.shown(name, "alice", "bob")
        again = acl.of_document(document, users)
        assert acl.shown(again, "alice", "bob") == document


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x_amz_acl": "nonsense"}, "InvalidArgument"),
        ({"x_amz_grant_read": "id=carol"}, "InvalidArgument"),
        ({"x_amz_grant_read": "name=alice"}, "InvalidArgument"),
        ({"x_amz_grant_read": 'emailAddress="a@b"'}, "UnresolvableGrantByEmailAddress"),
        ({"x_amz_grant_own": "id=alice"}, "MalformedACLError"),
        ({"x_amz_acl": "private", "x_amz_grant_read": "id=alice"}, "InvalidRequest"),
    ],
)
def test_what_is_refused(headers: dict[str, str], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        asked(**headers)
    assert caught.value.code == code
