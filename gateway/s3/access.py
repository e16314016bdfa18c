"""Who may do what: keys, owners, policies, access lists.

Invariants:
1. Nothing is allowed that nothing allows; nobody (an unsigned request) owns nothing.
2. A denial of the key's own policy or of the bucket's wins. A bucket's policy that cannot be read denies
   everything. But no policy of a bucket comes between its owner and this policy.
3. A user has all rights on own buckets, unless the key that signs has a policy: then those that this policy
   or the bucket's allows. On buckets of others, and as nobody, those that the bucket's policy or an access
   list gives, as far as the key's policy, if it has one, allows them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final
from urllib.parse import parse_qsl, urlencode

from gateway.s3 import acl, actions, policy
from gateway.s3.actions import Action
from gateway.s3.conditions import EXISTING_TAG, REQUESTED_TAG
from gateway.s3.objects import Bucket, ObjectLayer, S3Error
from gateway.s3.policy import Policy, Question, Verdict

DEFAULT_USER: Final = "drive"
"""Owns the folders that the mount made, and belongs to keys that are added without a user."""
BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


@dataclass(frozen=True, slots=True)
class Identity:
    """The signer of a request. `user` and `key_id` are empty for nobody."""

    user: str = ""
    key_id: str = ""
    policy: Policy | None = None


ANONYMOUS: Final = Identity()
_TAGGING: Final = "s3:x-amz-tagging"
_OF_POLICIES: Final = frozenset(f"s3:{verb}BucketPolicy" for verb in ("Get", "Put", "Delete"))

ObjectAcl = tuple[str, str] | None
"""The owner and the access list of an object; None where it is about the bucket's."""


def owner_of(bucket: Bucket) -> str:
    """The user whose it is."""
    return bucket.owner or DEFAULT_USER


def blocks_of(layer: ObjectLayer, bucket: str) -> frozenset[str]:
    """The switches of the bucket's PublicAccessBlock that are on."""
    found = layer.setting(bucket, "public-access-block")
    return frozenset(found.decode().split()) if found else frozenset()


class Access:
    """Decides for one request of `who`. `context` gives the condition keys of the request, which are made
    where a policy asks. `users`: all there are."""

    def __init__(
        self,
        layer: ObjectLayer,
        who: Identity,
        context: Callable[[], Mapping[str, str]],
        users: Callable[[], frozenset[str]],
    ) -> None:
        self._layer = layer
        self.who = who
        self._context = context
        self.users = users

    @cached_property
    def context(self) -> dict[str, str]:
        """The condition keys of the request."""
        return dict(self._context())

    def require(
        self,
        action: Action,
        bucket: str,
        key: bytes | None = None,
        permission: str = "",
        object_acl: ObjectAcl = None,
        version_id: str | None = None,
    ) -> None:
        """`AccessDenied` if it may not be; `NoSuchBucket`. `permission`: the one of access lists that would
        do; `object_acl`: of the object that is asked about; `version_id`: the version that the request names,
        which is another action in policies (`GetObjectVersion`)."""
        if not self.allows(action, bucket, key, permission, object_acl, version_id):
            raise S3Error("AccessDenied")

    def allows(
        self,
        action: Action,
        bucket: str,
        key: bytes | None = None,
        permission: str = "",
        object_acl: ObjectAcl = None,
        version_id: str | None = None,
    ) -> bool:
        """As `require`."""
        asked = actions.asked(action, of_version=version_id is not None)
        question = partial(self._question, asked, bucket, key, version_id)
        own = "" if self.who.policy is None else self.who.policy.verdict(question())
        if own == "deny":
            return False
        return self._on_bucket(asked, question, self._layer.bucket(bucket), own, permission, object_acl)

    def _question(self, asked: str, bucket: str, key: bytes | None, version_id: str | None) -> Question:
        """For policies."""
        resource = bucket if key is None else f"{bucket}/{key.decode('utf-8', 'replace')}"
        context, tags = self.context, partial(self._tags, bucket, key, version_id)
        if version_id is not None:
            context = {**context, "s3:versionid": version_id}
        return Question(self.who.user, asked, resource, context, tags)

    def require_own(self, action: Action, bucket: str = "*") -> None:
        """As `require`, where only the caller's key is asked: of all buckets, or of one that is yet to be."""
        asked = actions.asked(action, of_version=False)
        question = Question(self.who.user, asked, bucket, self.context)
        may = self.who.policy is None or self.who.policy.verdict(question) == "allow"
        if not self.who.user or not may:
            raise S3Error("AccessDenied")

    def require_object(
        self, action: Action, bucket: str, key: bytes, permission: str = "", version_id: str | None = None
    ) -> None:
        """As `require`, of an object that should be there: its own access list is asked too, and who may not
        list is not told that a key is not there. `S3Error` of one that is not there."""
        if self.allows(action, bucket, key, version_id=version_id):
            return
        try:
            metadata = self._layer.head(bucket, key, version_id).metadata
        except S3Error:
            self.require_listing(bucket, key)
            raise
        self.require(action, bucket, key, permission, (metadata.owner, metadata.acl), version_id)

    def require_listing(self, bucket: str, key: bytes) -> None:
        """`AccessDenied` unless the caller may see by a listing that this key is not there."""
        asking = self.saying({"s3:prefix": key.decode("utf-8", "replace")})
        asking.require("ListBucket", bucket, None, "READ")

    def saying(self, more: Mapping[str, str]) -> Access:
        """The same of a request that says this too."""
        return Access(self._layer, self.who, lambda: {**self.context, **more}, self.users)

    def giving(self, tags: Mapping[str, str]) -> Access:
        """The same of a request that gives an object these tags."""
        return self.saying({_TAGGING: urlencode(tags)})

    def _on_bucket(
        self,
        asked: str,
        question: Callable[[], Question],
        bucket: Bucket,
        own: Verdict,
        permission: str,
        object_acl: ObjectAcl,
    ) -> bool:
        is_owner = self.who.user == owner_of(bucket)
        has_all = is_owner and (self.who.policy is None or own == "allow")
        if has_all and asked in _OF_POLICIES:
            return True
        of_bucket = self._of_bucket(question, bucket)
        if of_bucket == "deny":
            return False
        if is_owner:
            return has_all or of_bucket == "allow"
        if self.who.policy is not None and own != "allow":
            return False
        return of_bucket == "allow" or self._by_list(bucket, permission, object_acl)

    def _of_bucket(self, question: Callable[[], Question], bucket: Bucket) -> Verdict:
        document = self._layer.setting(bucket.name, "policy")
        if document is None:
            return ""
        try:
            found = policy.of_bucket(document, bucket.name)
        except S3Error:  # of a drivefs that read it otherwise
            return "deny"
        verdict = found.verdict(question())
        is_other = self.who.user != owner_of(bucket)
        if verdict == "allow" and is_other and (found.is_public or not self.who.user):
            return "" if "RestrictPublicBuckets" in blocks_of(self._layer, bucket.name) else verdict
        return verdict

    def _tags(self, bucket: str, key: bytes | None, version_id: str | None) -> dict[str, str]:
        """The condition keys about tags: those that the version has, and those that the request gives."""
        try:
            existing = self._layer.tags(bucket, key, version_id)[0] if key else {}
        except S3Error:  # there is no object yet
            existing = {}
        asked = dict(parse_qsl(self.context.get(_TAGGING, ""), keep_blank_values=True))
        return {EXISTING_TAG + name.lower(): value for name, value in existing.items()} | {
            REQUESTED_TAG + name.lower(): value for name, value in asked.items()
        }

    def _by_list(self, bucket: Bucket, permission: str, object_acl: ObjectAcl) -> bool:
        if not permission:
            return False
        owner, listed = object_acl or ("", "")
        if owner and owner == self.who.user:
            return True
        if object_acl is None:
            found = self._layer.setting(bucket.name, "acl")
            listed = found.decode() if found else acl.PRIVATE
        if acl.is_public(listed) and "IgnorePublicAcls" in blocks_of(self._layer, bucket.name):
            return False
        return acl.allows(listed, permission, self.who.user, owner_of(bucket))
