"""Uploads that were begun, and their parts, as they lie in the system folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import Final

from cache.drive import Drive
from cache.tree import CLAIM
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch, Names
from gateway.s3.objects.record import UPLOAD, Record, decode, decode_upload, encode
from gateway.s3.objects.system_folder import UPLOADS, SystemFolder
from gateway.s3.objects.types import Bucket, Part, PartToJoin, Upload
from gateway.s3.objects.valid import MAX_PART_NUMBER

SMALLEST_PART: Final = 5 << 20
_END: Final = b":"
"""It comes after all digits."""


class BegunUploads:
    """See the module. Event-loop thread, synchronous."""

    def __init__(self, drive: Drive, names: Names, system: SystemFolder) -> None:
        self._drive = drive
        self._names = names
        self._system = system

    def found(self, bucket: Bucket, key: bytes, upload_id: str) -> tuple[Upload, int]:
        """An upload, and its folder."""
        above = self._system.of_bucket(UPLOADS, bucket.inode)
        row = None if above is None else self._names.child(above, upload_id.encode(errors="replace"))
        upload = None if row is None else self._read(bucket, upload_id, row.inode)
        if row is None or upload is None or upload.key != key:
            raise S3Error("NoSuchUpload", "the upload does not exist", {"UploadId": upload_id})
        return upload, row.inode

    def _read(self, bucket: Bucket, upload_id: str, folder: int) -> Upload | None:
        value = self._names.attribute(folder, UPLOAD)
        if value is None:
            return None
        made = decode_upload(value)
        return Upload(
            bucket.name,
            made.key,
            upload_id,
            made.initiated_ns,
            made.record.metadata,
            made.checksum_algorithm,
            made.checksum_kind,
        )

    def begun(self, bucket: Bucket) -> list[Upload]:
        return [upload for upload, _ in self.folders(bucket)]

    def folders(self, bucket: Bucket) -> list[tuple[Upload, int]]:
        """Those of a bucket, each with its folder."""
        above = self._system.of_bucket(UPLOADS, bucket.inode)
        rows = [] if above is None else self._drive.entries_by_name(above, b"", b"\xff", -1)
        found = [
            (self._read(bucket, row.name.decode(errors="replace"), row.inode), row.inode) for row in rows
        ]
        return [(upload, folder) for upload, folder in found if upload is not None]

    def place(
        self,
        batch: Batch,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        number: int,
        inode: int,
        record: Record,
    ) -> Part:
        _, folder = self.found(bucket, key, upload_id)
        before = self._names.child(folder, part_name(number))
        if before is not None:
            if before.is_directory:
                raise S3Error("InvalidRequest", "the mount has a folder where the part belongs")
            batch.unlink(folder, part_name(number), before.inode)
        batch.set_attribute(inode, CLAIM, encode(record))
        batch.link(inode, folder, part_name(number))
        return Part(number, record.size, record.etag, batch.now, record.checksums)

    def parts(self, folder: int, after: int, limit: int) -> list[tuple[Part, int]]:
        """Parts, each with its inode: so many, whatever else the mount put among them."""
        rows = self._drive.entries_by_name(folder, part_name(max(after, 0) + 1), _END, -1)
        found = (self._part(row.name, row.inode) for row in rows)
        return list(islice((each for each in found if each is not None), limit))

    def _part(self, name: bytes, inode: int) -> tuple[Part, int] | None:
        value, holds = self._drive.claims.claim(inode)
        if value is None or not holds:
            return None  # the mount made or changed it: it is no part
        record, number = decode(value), int(name) if name.isdigit() else 0
        if part_name(number) != name or record.size != self._drive.size(inode):
            return None
        modified_ns = self._drive.attributes(inode).mtime_ns
        return Part(number, record.size, record.etag, modified_ns, record.checksums), inode

    def chosen(self, folder: int, named: Sequence[PartToJoin]) -> list[tuple[Part, int]]:
        """The parts that the client named, as they were stored."""
        if not named:
            raise S3Error("MalformedXML", "an object has at least one part")
        numbers = [part.number for part in named]
        if numbers != sorted(numbers):
            raise S3Error("InvalidPartOrder", "parts are listed in the order of their numbers")
        stored = {part.number: (part, inode) for part, inode in self.parts(folder, 0, MAX_PART_NUMBER)}
        found = [self._checked(part, stored.get(part.number)) for part in last_named(named)]
        for part, _ in found[:-1]:
            if part.size < SMALLEST_PART:
                details = {"ProposedSize": str(part.size), "MinSizeAllowed": str(SMALLEST_PART)}
                details |= {"PartNumber": str(part.number), "ETag": part.etag}
                raise S3Error("EntityTooSmall", "a part before the last has at least 5 MiB", details)
        return found

    @staticmethod
    def _checked(named: PartToJoin, found: tuple[Part, int] | None) -> tuple[Part, int]:
        if found is not None:
            part = found[0]
            values = part.checksums.values
            if part.etag == named.etag and all(
                values.get(algorithm) == value for algorithm, value in named.checksums.items()
            ):
                return found
        raise S3Error("InvalidPart", f"part {named.number} is not there, or another one")

    def remove(self, batch: Batch, bucket: Bucket, upload_id: str, folder: int) -> None:
        above = self._system.of_bucket(UPLOADS, bucket.inode)
        assert above is not None
        remove_all(self._drive, batch, folder)
        batch.unlink(above, upload_id.encode(), folder)


def remove_all(drive: Drive, batch: Batch, folder: int) -> None:
    """Everything in a folder goes, whatever it is."""
    waiting, removals = [folder], []
    while waiting:
        directory = waiting.pop()
        for row in drive.entries_by_name(directory, b"", b"\xff" * 256, -1):
            removals.append((directory, row.name, row.inode))
            if drive.live_row(row.inode).is_directory:
                waiting.append(row.inode)
    for directory, name, inode in reversed(removals):
        batch.unlink(directory, name, inode)


def last_named(named: Sequence[PartToJoin]) -> list[PartToJoin]:
    """Of a number that is named several times in a row, the last counts, as in S3."""
    return list({part.number: part for part in named}.values())


def part_name(number: int) -> bytes:
    """The name of a part's file; in the order of numbers."""
    return b"%05d" % number


def joined_etag(etags: Sequence[str]) -> str:
    """The MD5 of the parts' MD5s, and how many they are."""
    digests = b"".join(bytes.fromhex(etag) if _is_md5(etag) else etag.encode() for etag in etags)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and not etag.strip("0123456789abcdef")
