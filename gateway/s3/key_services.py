"""The calls about access keys (`cache.messages.s3`), answered by a running drive."""

from __future__ import annotations

from typing import Any

from backend.errors import UsageError
from cache.messages import (
    S3_KEY_ADD,
    S3_KEY_POLICY,
    S3_KEY_REMOVE,
    S3_KEYS,
    Nothing,
    S3KeyMade,
    S3KeyNamed,
    S3Keys,
    S3KeyShown,
    S3KeyWanted,
    S3PolicyWanted,
    Service,
)
from gateway.s3.access_keys import AccessKeys
from gateway.s3.objects import S3Error


def key_services(keys: AccessKeys) -> list[Service[Any, Any]]:
    """See the module."""

    async def add(wanted: S3KeyWanted) -> S3KeyMade:
        try:
            made = await keys.add(wanted.user, wanted.note, wanted.policy.encode())
        except S3Error as error:
            raise UsageError(str(error)) from None
        return S3KeyMade(made.key_id, made.secret, made.user)

    async def listed(_: Nothing) -> S3Keys:
        return S3Keys(
            tuple(
                S3KeyShown(key.key_id, key.user, key.created_ns, key.note, key.policy.decode())
                for key in keys.listed()
            )
        )

    async def remove(wanted: S3KeyNamed) -> Nothing:
        await keys.remove(wanted.key_id)
        return Nothing()

    async def set_policy(wanted: S3PolicyWanted) -> Nothing:
        try:
            await keys.set_policy(wanted.key_id, wanted.policy.encode())
        except S3Error as error:
            raise UsageError(str(error)) from None
        return Nothing()

    return [
        Service(S3_KEY_ADD, add),
        Service(S3_KEYS, listed),
        Service(S3_KEY_REMOVE, remove),
        Service(S3_KEY_POLICY, set_policy),
    ]
