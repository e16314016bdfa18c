"""Arguments that S3 does not allow, as its errors."""

from __future__ import annotations

from typing import Final

from gateway.s3.key_paths import BadKeyError, KeyTooLongError, check_key
from gateway.s3.objects.errors import S3Error

MAX_PART_NUMBER: Final = 10_000


def valid_key(key: bytes) -> None:
    """`KeyTooLongError`, `InvalidArgument`."""
    try:
        check_key(key)
    except KeyTooLongError as error:
        raise S3Error("KeyTooLongError", str(error)) from error
    except BadKeyError as error:
        raise S3Error("InvalidArgument", str(error)) from error


def valid_part_number(number: int) -> None:
    """`InvalidArgument`"""
    if not 1 <= number <= MAX_PART_NUMBER:
        raise S3Error("InvalidArgument", f"a part has a number from 1 to {MAX_PART_NUMBER}")
