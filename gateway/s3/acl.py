"""Canned access lists of buckets and objects: which they are, and whom they let do something. Pure.

Source: AWS, "Access control list (ACL) overview". Lists of single grantees are not served (`NotImplemented`).
"""

from __future__ import annotations

from typing import Final

from gateway.s3.objects import S3Error
from gateway.s3.xml_answers import document, element
from gateway.s3.xml_requests import Node, malformed, parse

PRIVATE: Final = "private"
ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED_USERS: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
GRANTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    PRIVATE: (),
    "public-read": ((ALL_USERS, "READ"),),
    "public-read-write": ((ALL_USERS, "READ"), (ALL_USERS, "WRITE")),
    "authenticated-read": ((SIGNED_USERS, "READ"),),
    "bucket-owner-read": (("bucket-owner", "READ"),),
    "bucket-owner-full-control": (("bucket-owner", "FULL_CONTROL"),),
}
"""By canned name, beside the owner's FULL_CONTROL."""
PUBLIC: Final = ("public-read", "public-read-write", "authenticated-read")
_SCHEMA: Final = "http://www.w3.org/2001/XMLSchema-instance"


def canned(name: str) -> str:
    """The list of this name. `S3Error`."""
    if name not in GRANTS:
        raise S3Error("InvalidArgument", f"{name} is no canned access list.")
    return name


def allows(acl: str, permission: str, user: str, bucket_owner: str) -> bool:
    """Whether somebody who is not the owner has a permission. `user` is empty for nobody."""
    return any(
        granted in (permission, "FULL_CONTROL")
        and (
            whom == ALL_USERS
            or (whom == SIGNED_USERS and bool(user))
            or (whom == "bucket-owner" and bool(user) and user == bucket_owner)
        )
        for whom, granted in GRANTS.get(acl, ())
    )


def shown(acl: str, owner: str, bucket_owner: str) -> bytes:
    """The answer of GetBucketAcl and GetObjectAcl."""
    grants = ""
    for whom, permission in GRANTS.get(acl, ()):
        if whom != "bucket-owner":
            grants += _grant(_group(whom), permission)
        elif owner != bucket_owner:
            grants += _grant(_user(bucket_owner), permission)
    grants += _grant(_user(owner), "FULL_CONTROL")
    return document(
        "AccessControlPolicy", f"{owner_element(owner)}<AccessControlList>{grants}</AccessControlList>"
    )


def owner_element(owner: str, name: str = "Owner") -> str:
    """A user as answers name one."""
    return f"<{name}>{element('ID', owner)}{element('DisplayName', owner)}</{name}>"


def of_document(data: bytes, owner: str) -> str:
    """The canned list that the document says. `S3Error`: `NotImplemented` for any other."""
    node = parse(data, "AccessControlPolicy")
    listed = node.child("AccessControlList")
    if listed is None:
        raise S3Error("MalformedACLError", "The access list has no AccessControlList.")
    grants = {grant for each in listed.children("Grant") if (grant := _read_grant(each))[0] != owner}
    for name, known in GRANTS.items():
        if grants == set(known):
            return name
    raise S3Error("NotImplemented", "Only the grants of canned access lists are served.")


def _read_grant(grant: Node) -> tuple[str, str]:
    whom = grant.child("Grantee")
    if whom is None:
        raise malformed()
    name = whom.value("ID") or whom.value("URI") or whom.value("EmailAddress") or ""
    return name, grant.required("Permission")


def _grant(grantee: str, permission: str) -> str:
    return f"<Grant>{grantee}{element('Permission', permission)}</Grant>"


def _user(owner: str) -> str:
    return (
        f'<Grantee xmlns:xsi="{_SCHEMA}" xsi:type="CanonicalUser">{element("ID", owner)}'
        f"{element('DisplayName', owner)}</Grantee>"
    )


def _group(group: str) -> str:
    return f'<Grantee xmlns:xsi="{_SCHEMA}" xsi:type="Group">{element("URI", group)}</Grantee>'
