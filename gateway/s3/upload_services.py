"""The calls about uploads that are not complete (`cache.messages.s3`), answered by a running drive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backend.errors import NotFoundError
from cache.messages import (
    S3_UPLOAD_ABORT,
    S3_UPLOAD_KEEP,
    S3_UPLOADS,
    Nothing,
    S3Served,
    S3UploadNamed,
    S3Uploads,
    S3UploadShown,
    S3UploadsKept,
    Service,
)
from gateway.s3.objects import S3Error, UploadKeeper


def upload_services(keeper: Callable[[str], UploadKeeper]) -> list[Service[Any, Any]]:
    """See the module. `keeper`: of the folder that is served, by its path in the drive."""

    async def listed(asked: S3Served) -> S3Uploads:
        of = keeper(asked.root)
        return S3Uploads(
            tuple(
                S3UploadShown(
                    left.bucket.name,
                    left.upload.key.decode(),
                    left.upload.upload_id,
                    left.upload.initiated_ns,
                    left.touched_ns,
                    left.kept,
                    *of.parts(left),
                )
                for left in of.left()
            )
        )

    async def abort(named: S3UploadNamed) -> Nothing:
        await keeper(named.root).abort(named.upload_id)
        return Nothing()

    async def keep(wanted: S3UploadsKept) -> Nothing:
        try:
            await keeper(wanted.root).keep(wanted.bucket, wanted.seconds)
        except S3Error as error:
            raise NotFoundError(f"{wanted.bucket}: {error}") from None
        return Nothing()

    return [
        Service(S3_UPLOADS, listed),
        Service(S3_UPLOAD_ABORT, abort),
        Service(S3_UPLOAD_KEEP, keep),
    ]
