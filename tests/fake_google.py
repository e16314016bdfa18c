"""The server of `tests.fake_s3` as Google Cloud Storage has it, by its XML API: generations in the place of
ETags, a token in that of a key. fake-gcs-server knows uploads by Google's JSON API only, and obstore none of
those."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import Final

from tests.fake_s3 import BUCKET, Answer, FakeS3, failed, running

TOKEN: Final = "a token that no message may hold"


class FakeGoogle(FakeS3):
    """See `FakeS3`."""

    def __init__(self) -> None:
        super().__init__()
        self.access_key = TOKEN
        self._writes: Counter[str] = Counter()

    def node_url(self, prefix: str = "prefix") -> str:
        return f"gs+{self.url}/{BUCKET}/{prefix}"

    def _knows(self, authorization: str) -> bool:
        return authorization == f"Bearer {self.access_key}"

    def _store(self, objects: dict[str, bytes], key: str, body: bytes) -> None:
        self._writes[key] += 1
        super()._store(objects, key, body)

    def _generation(self, objects: dict[str, bytes], key: str) -> str:
        return str(1000 + self._writes[key]) if key in objects else "0"

    def _is_refused(self, objects: dict[str, bytes], key: str, headers: dict[str, str]) -> bool:
        generation = self._generation(objects, key)
        return headers.get("x-goog-if-generation-match", generation) != generation

    def _about(self, objects: dict[str, bytes], key: str) -> dict[str, str]:
        return super()._about(objects, key) | {"x-goog-generation": self._generation(objects, key)}

    def _delete(self, objects: dict[str, bytes], key: str) -> Answer:
        return super()._delete(objects, key) if key in objects else failed(404, "NoSuchKey")


def fake_google() -> AbstractContextManager[FakeGoogle]:
    """A server that runs while the block does."""
    return running(FakeGoogle())
