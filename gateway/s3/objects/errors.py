"""The refusals of the object layer: one class, with the error code of the S3 API.

The code is what a client reads (AWS, "API Reference: Error responses"). No HTTP here: the door has the table
from codes to status numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class S3Error(Exception):
    """A request is refused; nothing has changed. `details` are further elements of the answer."""

    def __init__(self, code: str, message: str = "", details: Mapping[str, str] | None = None) -> None:
        super().__init__(message or code)
        self.code: Final = code
        self.message: Final = message
        self.details: Final = dict(details or {})


class DeleteMarkerError(S3Error):
    """The version that was asked for is a delete marker: `NoSuchKey` if it is the newest, else
    `MethodNotAllowed`."""

    def __init__(self, code: str, version_id: str, last_modified_ns: int) -> None:
        super().__init__(code, "the version is a delete marker")
        self.version_id: Final = version_id
        self.last_modified_ns: Final = last_modified_ns


class NotModifiedError(S3Error):
    """A conditional read whose caller has this state already (`NotModified`)."""

    def __init__(self, etag: str, last_modified_ns: int) -> None:
        super().__init__("NotModified")
        self.etag: Final = etag
        self.last_modified_ns: Final = last_modified_ns


class ChangedError(Exception):
    """The content changed while it was sent, by a write through the mount: the answer is to be cut off."""
