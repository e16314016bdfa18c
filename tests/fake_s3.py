"""An S3 server of our own in this process, for what real ones do seldom: faults, lies, and buckets that
vanish.

It keeps objects in memory and signs nothing: of credentials it looks at the access key only. `faults` are met
once each, in order, by the first request that each one is for.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeVar, cast
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS_KEY: Final = "AKFAKE"
SECRET_KEY: Final = "a secret that no message may hold"
BUCKET: Final = "bucket"
_WRITING: Final = ("PUT", "POST", "DELETE")
_REFUSED: Final = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered. `sent`: so many bytes of the body, then the connection ends; None: all."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """For the next request by `method` whose path ends with `key`. `answer` is given instead of the true one,
    or made of it; with `happens` the request is carried out all the same."""

    method: str
    key: str
    answer: Answer | Callable[[Answer], Answer]
    happens: bool = False


def failed(status: int, code: str) -> Answer:
    """An error as S3 tells it."""
    return Answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())


def cut(answer: Answer) -> Answer:
    """The connection ends in the middle of the body."""
    return Answer(answer.status, answer.body, answer.headers, len(answer.body) // 2)


class FakeS3:
    """The server's state; it is `url`. Every attribute may be changed while it runs."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {BUCKET: {}}
        self.faults: list[Fault] = []
        self.ignores_conditions = False
        self.ignores_ranges = False
        self.lists_by_folder = False
        self.one_write_a_second: Answer | None = None
        """what a second write of an object is answered within one"""
        self.refused = 0
        """the writes that were answered so"""
        self.has_vanished = False
        """Whether it ends each connection without a word."""
        self.access_key = ACCESS_KEY
        self.page = 1000
        self.latency = 0.0
        """seconds before a request is carried out"""
        self.requests: list[str] = []
        """method and path, in order"""
        self.received = 0
        """bytes"""
        self.most_writers: Counter[str] = Counter()
        """the most requests under way at once that write, by their paths"""
        self.most_at_once = 0
        """the most requests under way at once"""
        self.lock = threading.Lock()
        self._at_once = 0
        self._writers: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self.url = ""

    @property
    def objects(self) -> dict[str, bytes]:
        """Of the first bucket."""
        return self.buckets[BUCKET]

    @objects.setter
    def objects(self, objects: dict[str, bytes]) -> None:
        self.buckets[BUCKET] = objects

    def node_url(self, prefix: str = "prefix") -> str:
        """As a node has it."""
        return f"s3+{self.url}/{BUCKET}/{prefix}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """To one request; they take turns."""
        with self._counted(method, path, len(body)):
            time.sleep(self.latency)
            return self._answer_in_turn(method, path, headers, body)

    @contextmanager
    def _counted(self, method: str, path: str, size: int) -> Iterator[None]:
        with self.lock:
            self.received += size
            self.requests.append(f"{method} {path}")
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._writers[path] += method in _WRITING
            self.most_writers[path] = max(self.most_writers[path], self._writers[path])
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1
                self._writers[path] -= method in _WRITING

    def _answer_in_turn(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        with self.lock:
            found = next((each for each in self.faults if self._meets(each, method, path)), None)
            if found is None:
                return self._true_answer(method, path, headers, body)
            self.faults.remove(found)
            if callable(found.answer):
                return found.answer(self._true_answer(method, path, headers, body))
            if found.happens:
                self._true_answer(method, path, headers, body)
            return found.answer

    def _meets(self, fault: Fault, method: str, path: str) -> bool:
        return fault.method == method and urlsplit(path).path.endswith(fault.key)

    def _true_answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if not self._knows(headers.get("authorization", "")):
            return failed(403, "InvalidAccessKeyId")
        bucket, _, key = unquote(urlsplit(path).path).lstrip("/").partition("/")
        objects = self.buckets.get(bucket)
        if objects is None:
            return failed(404, "NoSuchBucket")
        if method == "GET" and not key:
            return self._listing(objects, parse_qs(urlsplit(path).query, keep_blank_values=True))
        if method in _WRITING:
            return self._changed(method, objects, key, headers, body)
        return self._get(objects, key, headers)

    def _changed(
        self, method: str, objects: dict[str, bytes], key: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        now = time.monotonic()
        if self.one_write_a_second is not None and now - self._written.get(key, 0.0) < 1:
            self.refused += 1
            return self.one_write_a_second
        answer = self._delete(objects, key) if method == "DELETE" else self._put(objects, key, headers, body)
        if answer.status < _REFUSED:
            self._written[key] = now
        return answer

    def _knows(self, authorization: str) -> bool:
        return f"Credential={self.access_key}/" in authorization

    def _put(self, objects: dict[str, bytes], key: str, headers: dict[str, str], body: bytes) -> Answer:
        if self._is_refused(objects, key, headers) and not self.ignores_conditions:
            return failed(412, "PreconditionFailed")
        self._store(objects, key, body)
        return Answer(200, headers=self._about(objects, key))

    def _store(self, objects: dict[str, bytes], key: str, body: bytes) -> None:
        objects[key] = body

    def _is_refused(self, objects: dict[str, bytes], key: str, headers: dict[str, str]) -> bool:
        there = objects.get(key)
        absent, same = headers.get("if-none-match"), headers.get("if-match")
        return bool(absent and there is not None) or bool(same and (there is None or tag(there) != same))

    def _about(self, objects: dict[str, bytes], key: str) -> dict[str, str]:
        """The headers of an object."""
        return {"ETag": tag(objects[key]), "Last-Modified": "Sat, 28 Nov 2026 07:00:00 GMT"}

    def _delete(self, objects: dict[str, bytes], key: str) -> Answer:
        objects.pop(key, None)
        return Answer(204)

    def _get(self, objects: dict[str, bytes], key: str, headers: dict[str, str]) -> Answer:
        data = objects.get(key)
        if data is None:
            return failed(404, "NoSuchKey")
        about = self._about(objects, key)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if wanted is None or self.ignores_ranges:
            return Answer(200, data, about)
        begin, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if begin >= len(data):
            return failed(416, "InvalidRange")
        about["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        return Answer(206, data[begin:end], about)

    def _listing(self, objects: dict[str, bytes], query: dict[str, list[str]]) -> Answer:
        prefix = query.get("prefix", [""])[0]
        order = (lambda key: key.split("/")) if self.lists_by_folder else (lambda key: [key])
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        keys = [
            key for key in sorted(objects, key=order) if key.startswith(prefix) and order(key) > order(after)
        ]
        if self.lists_by_folder and "continuation-token" not in query:
            # As in SeaweedFS, a listing that begins behind a folder's name begins behind what lies in it.
            keys = [key for key in keys if not key.startswith(f"{after}/")]
        page = keys[: self.page]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-28T07:00:00.000Z</LastModified>"
            f"<ETag>{escape(tag(objects[key]))}</ETag><Size>{len(objects[key])}</Size></Contents>"
            for key in page
        )
        more = len(keys) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return Answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
            "</ListBucketResult>".encode(),
        )


def tag(data: bytes) -> str:
    """The ETag of an object."""
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        state = cast("_Server", self.server).state
        if state.has_vanished:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = state.answer(self.command, self.path, headers, body)
        lines = [f"HTTP/1.1 {answer.status} .", f"Content-Length: {len(answer.body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        data = b"" if self.command == "HEAD" else answer.body[: answer.sent]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + data)
        self.close_connection = self.close_connection or answer.sent is not None

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_one

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what was asked is in `FakeS3.requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: FakeS3) -> None:
        self.state = state
        super().__init__(("127.0.0.1", 0), _Handler)


Fake = TypeVar("Fake", bound=FakeS3)


@contextmanager
def running(state: Fake) -> Iterator[Fake]:
    """A server of that state, which runs while the block does."""
    server = _Server(state)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fake_s3() -> AbstractContextManager[FakeS3]:
    """A server that runs while the block does."""
    return running(FakeS3())
