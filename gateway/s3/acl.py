"""Access lists of buckets and objects: canned ones, and lists of grants. Pure.

Source: AWS, "Access control list (ACL) overview". A list is kept as text: a canned name, or a JSON array of
[grantee, permission]. A grantee is a user's name or the URI of a group. Owners may do everything whatever the
list says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable
from functools import lru_cache
from typing import Final

from gateway.s3.objects import S3Error
from gateway.s3.request import Request
from gateway.s3.xml_answers import document, element
from gateway.s3.xml_requests import Node, malformed, parse

Grants = tuple[tuple[str, str], ...]
Users = Callable[[], Container[str]]
"""Those whom the door knows."""

PRIVATE: Final = "private"
ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED_USERS: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
PERMISSIONS: Final = ("READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL")
MOST_GRANTS: Final = 100
_OWNER, _BUCKET_OWNER = "\0owner", "\0bucket owner"
_CANNED: Final[dict[str, Grants]] = {
    PRIVATE: (),
    "public-read": ((ALL_USERS, "READ"),),
    "public-read-write": ((ALL_USERS, "READ"), (ALL_USERS, "WRITE")),
    "authenticated-read": ((SIGNED_USERS, "READ"),),
    "bucket-owner-read": ((_BUCKET_OWNER, "READ"),),
    "bucket-owner-full-control": ((_BUCKET_OWNER, "FULL_CONTROL"),),
}
_HEADER: Final = "x-amz-grant-"
_SCHEMA: Final = "http://www.w3.org/2001/XMLSchema-instance"


def asked(request: Request, users: Users) -> str:
    """The list that the headers of a request say; empty: none. `S3Error`."""
    named = request.header("x-amz-acl")
    granting = [name for name in request.headers if name.startswith(_HEADER)]
    if named and granting:
        raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
    if named:
        if named not in _CANNED:
            raise S3Error("InvalidArgument", f"{named} is no canned access list.")
        return named
    grants = [grant for name in granting for grant in _of_header(name, request.header(name))]
    return _text(grants, users) if grants else ""


def _of_header(name: str, value: str) -> Iterable[tuple[str, str]]:
    permission = name.removeprefix(_HEADER).upper().replace("-", "_")
    for kind, whom in _grantees(value):
        if kind == "emailaddress":
            raise _no_address()
        if kind not in ("id", "uri"):
            raise S3Error("InvalidArgument", "A grantee is id=..., uri=... or emailAddress=...")
        yield whom, permission


def _grantees(value: str) -> list[tuple[str, str]]:
    pairs = (each.strip().partition("=") for each in value.split(","))
    return [(kind.strip().lower(), whom.strip().strip('"')) for kind, _, whom in pairs]


def of_document(data: bytes, users: Users) -> str:
    """The list that a document says. `S3Error`."""
    listed = parse(data, "AccessControlPolicy").child("AccessControlList")
    if listed is None:
        raise S3Error("MalformedACLError", "The access list has no AccessControlList.")
    return _text(map(_of_element, listed.children("Grant")), users)


def _of_element(grant: Node) -> tuple[str, str]:
    whom = grant.child("Grantee")
    if whom is None:
        raise malformed()
    if whom.value("EmailAddress"):
        raise _no_address()
    return whom.value("ID") or whom.value("URI") or "", grant.required("Permission")


def _no_address() -> S3Error:
    return S3Error("UnresolvableGrantByEmailAddress", "Users have no e-mail addresses here.")


def _text(grants: Iterable[tuple[str, str]], users: Users) -> str:
    found = list(dict.fromkeys(grants))
    if len(found) > MOST_GRANTS or any(permission not in PERMISSIONS for _, permission in found):
        raise S3Error("MalformedACLError", "The access list is not well-formed.")
    for whom, _ in found:
        if whom not in (ALL_USERS, SIGNED_USERS) and whom not in users():
            raise S3Error("InvalidArgument", "Invalid id")
    # Groups come first, as in the canned lists.
    return json.dumps(sorted(found, key=lambda grant: grant[0] not in (ALL_USERS, SIGNED_USERS)))


@lru_cache(maxsize=1024)
def _grants(acl: str) -> Grants:
    """Of a kept list. The owner's is there where it is a canned one."""
    if acl.startswith("["):
        return tuple((whom, permission) for whom, permission in json.loads(acl))
    return (*_CANNED.get(acl, ()), (_OWNER, "FULL_CONTROL"))


def is_public(acl: str) -> bool:
    """Whether it lets everybody, or everybody with a key, do something."""
    return any(whom in (ALL_USERS, SIGNED_USERS) for whom, _ in _grants(acl))


def allows(acl: str, permission: str, user: str, bucket_owner: str) -> bool:
    """Whether somebody who is not the owner has a permission. `user` is empty for nobody."""
    mine = {ALL_USERS}
    if user:
        mine |= {SIGNED_USERS, user} | ({_BUCKET_OWNER} if user == bucket_owner else set())
    return any(whom in mine and granted in (permission, "FULL_CONTROL") for whom, granted in _grants(acl))


def shown(acl: str, owner: str, bucket_owner: str) -> bytes:
    """The answer of GetBucketAcl and GetObjectAcl."""
    names = {_OWNER: owner, _BUCKET_OWNER: bucket_owner}
    # The owner of both is named once.
    listed = [each for each in _grants(acl) if owner != bucket_owner or each[0] != _BUCKET_OWNER]
    grants = "".join(_grant(names.get(whom, whom), permission) for whom, permission in listed)
    content = f"{owner_element(owner)}<AccessControlList>{grants}</AccessControlList>"
    return document("AccessControlPolicy", content)


def owner_element(owner: str, name: str = "Owner") -> str:
    """A user as answers name one."""
    return f"<{name}>{element('ID', owner)}{element('DisplayName', owner)}</{name}>"


def _grant(whom: str, permission: str) -> str:
    if whom in (ALL_USERS, SIGNED_USERS):
        kind, named = "Group", element("URI", whom)
    else:
        kind, named = "CanonicalUser", f"{element('ID', whom)}{element('DisplayName', whom)}"
    grantee = f'<Grantee xmlns:xsi="{_SCHEMA}" xsi:type="{kind}">{named}</Grantee>'
    return f"<Grant>{grantee}{element('Permission', permission)}</Grant>"
