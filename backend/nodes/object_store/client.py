"""Calls of an object store by obstore: the one module that knows obstore, its limits and the meaning of its
errors.

Invariants:
1. Nothing is tried again here (`max_retries=0`): after a retry one's own success looks like another's
   object. The caller knows which calls may be repeated (`backend.nodes.retry`).
2. An object is one request (`use_multipart=False`): no upload is left behind that is paid for and not seen.
3. What comes back is as long as the store says that it is, or an error.
4. Credentials are read when the first call needs them; again when their file has changed, before they end
   (`backend.nodes.object_store.renewal`), and once when the store refuses them, in a listing as well.
5. The variables `AWS_…` of the process decide nothing: whatever they could change is set here. Those named
   `AZURE_…` decide neither where a store is nor as whom it is asked.
6. Where a store takes one write of an object a second, those of this process are that far apart
   (`backend.nodes.object_store.spacing`).
7. The tag of an object is what a replacement may be bound to: its ETag, Google's generation.

Everything blocks; any thread. obstore lets go of the interpreter while it waits and copies.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from backend.buffer import Buffer
from backend.nodes.node import ObjectState
from backend.nodes.object_store.credentials import CredentialsError, CredentialSource, Secrets
from backend.nodes.object_store.errors import (
    AbsentError,
    BusyError,
    RefusedError,
    StoreError,
    TakenError,
)
from backend.nodes.object_store.location import Location
from backend.nodes.object_store.renewal import CurrentCredentials, Reading
from backend.nodes.object_store.settings import StoreSettings
from backend.nodes.object_store.spacing import Spacing
from backend.system import THIS_MACHINE, Environment

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import GCSCredential

LIST_PAGE: Final = 1000
"""So many names a store gives at once."""

_CONNECT_SECONDS: Final = 10
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([\w.-]{1,64})</Code>")
_OF_CREDENTIALS: Final = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""What Amazon says with a 400."""
_BEHIND_THE_END: Final = "Wanted range starting at"
"""What obstore says when a store answers an empty range."""
_AMAZON_REGION: Final = "us-east-1"
_LONGEST_REASON: Final = 200
_CONDITIONS: Final = (exceptions.AlreadyExistsError, exceptions.PreconditionError)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing: its key, and its length in bytes."""

    key: str
    size: int


class StoreClient:
    """Of one node's place. Keys are the node's; the prefix is put before them here."""

    def __init__(
        self, location: Location, settings: StoreSettings, environment: Environment = THIS_MACHINE
    ) -> None:
        self.location = location
        self._settings = settings
        self._credentials = CurrentCredentials(CredentialSource(settings.credentials), environment)
        self._spacing = Spacing(is_known=location.takes_one_write_a_second)
        self._tag = "version" if location.service == "gs" else "e_tag"
        self._lock = threading.Lock()
        self._opened: tuple[Any, Secrets | None] | None = None
        """the store as obstore has it, and the credentials in it"""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write the object, whatever is there."""
        self._put(key, parts, "overwrite")

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write it if there is none. `TakenError`."""
        self._put(key, parts, "create")

    def replace(self, key: str, new: bytes, tag: str) -> None:
        """Write it if what is there has that tag. `TakenError`."""
        if not tag:
            raise StoreError("it gives objects no tag, so none can be replaced safely")
        self._put(key, [new], {self._tag: tag if self._settings.etag == "quoted" else tag.strip('"')})

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The range of the object, shorter only where that ends. `AbsentError`."""
        if length == 0:
            self.size(key)
            return b""
        if not offset and length is None:
            return self.get_tagged(key)[0]
        options: GetOptions = {"range": {"offset": offset} if length is None else (offset, offset + length)}
        try:
            return self._call(lambda store: self._got(obstore.get(store, self._path(key), options=options)))[
                0
            ]
        except _NoSuchRangeError:
            return b""
        except _WholeInsteadError:
            end = None if length is None else offset + length
            return self.get_tagged(key)[0][offset:end]

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        """The whole object, and its tag (empty: the store gives none). `AbsentError`."""
        return self._call(lambda store: self._got(obstore.get(store, self._path(key))))

    def size(self, key: str) -> int:
        """In bytes. `AbsentError`."""
        return self.state(key).size

    def state(self, key: str) -> ObjectState:
        """Its length and tag. `AbsentError`."""
        found: Any = self._call(lambda store: obstore.head(store, self._path(key)))
        return ObjectState(int(found["size"]), found[self._tag] or "")

    def delete(self, key: str) -> None:
        """Some stores raise `AbsentError` if it is not there."""
        with self._spacing.turn(key):
            self._call(lambda store: obstore.delete(store, self._path(key)))

    def pages(self, prefix: str, after: str = "") -> Iterator[list[Listed]]:
        """The objects in the folder `prefix` (empty, or with `/` behind), from the first above `after`, in
        the order of the store: by bytes, but in some stores folder by folder."""
        listing = _Listing(self._path(prefix), self._path(after) if after else None)
        skipped = len(self._path(""))
        while page := self._call(listing.page):
            yield [Listed(each["path"][skipped:], each["size"]) for each in page]

    def _path(self, key: str) -> str:
        return self.location.path(key)

    def _got(self, answer: Any) -> tuple[bytes, str]:
        data = answer.bytes().to_bytes()
        begin, end = answer.range
        if len(data) != end - begin:
            raise StoreError(f"{len(data)} bytes came where {end - begin} were announced")
        return data, answer.meta[self._tag] or ""

    def _put(self, key: str, parts: Sequence[Buffer], mode: Any) -> None:
        path = self._path(key)
        with self._spacing.turn(key):
            # An iterator's parts are sent as they lie in memory; of anything else obstore makes a copy.
            self._call(lambda store: obstore.put(store, path, iter(parts), mode=mode, use_multipart=False))

    def _call(self, work: Callable[[Any], Result]) -> Result:
        reading = self._credentials.get()
        try:
            return self._called(work, reading.secrets)
        except RefusedError as refusal:
            others = self._others(reading, refusal)
        return self._called(work, others)

    def _others(self, reading: Reading, refusal: RefusedError) -> Secrets | None:
        """Credentials for a second try; `refusal`, where there are none."""
        try:
            others = self._credentials.after_refusal(reading).secrets
        except CredentialsError as error:
            raise RefusedError(f"{refusal}; {error}") from refusal
        if others == reading.secrets:
            raise refusal
        return others

    def _called(self, work: Callable[[Any], Result], secrets: Secrets | None) -> Result:
        with _translated():
            return work(self._store(secrets))

    def _store(self, secrets: Secrets | None) -> Any:
        with self._lock:
            if self._opened is None or self._opened[1] != secrets:
                self._opened = _open(self.location, self._settings, secrets), secrets
            return self._opened[0]


class _Listing:
    """A listing under way, which another store goes on with from where it is. In the order of the store."""

    def __init__(self, top: str, after: str | None) -> None:
        self._top = top
        self._last = after
        self._store: Any = None
        self._pages: Iterator[Sequence[Any]] = iter(())

    def page(self, store: Any) -> Sequence[Any]:
        """The next objects, none at the end. After an error it can go on with another store only."""
        if store is not self._store:
            self._store = store
            self._pages = iter(obstore.list(store, self._top, offset=self._last, chunk_size=LIST_PAGE))
        page = next(self._pages, ())
        if page:
            self._last = page[-1]["path"]
        return page


class _NoSuchRangeError(StoreError):
    """416: the range begins at the object's end or behind it."""


class _WholeInsteadError(StoreError):
    """The answer to a range is the whole object."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exceptions.BaseError, FileNotFoundError) as error:
        raise _meaning(error) from None
    except OSError as error:
        raise StoreError(_reason(str(error))) from None


def _meaning(error: Exception) -> StoreError:
    text = str(error)
    found = _STATUS.search(text)
    status, reason = int(found[1]) if found else 0, _reason(text)
    if isinstance(error, FileNotFoundError) or status == 404:
        return AbsentError(reason)
    if status in (409, 412) or isinstance(error, _CONDITIONS):
        return TakenError(reason)
    if status in (401, 403) or isinstance(error, exceptions.PermissionDeniedError):
        return RefusedError(reason)
    if reason in _OF_CREDENTIALS:
        return RefusedError(reason)
    if status == 416 or _BEHIND_THE_END in text:
        return _NoSuchRangeError(reason)
    if "non-partial" in text:
        return _WholeInsteadError(reason)
    return BusyError(reason) if status in (429, 503) else StoreError(reason)


def _reason(text: str) -> str:
    """The store's own word for it, or the end of the first line: no URL, which may hold what is signed."""
    code = _CODE.search(text)
    if code is not None:
        return code[1]
    line = text.partition("\n")[0]
    return re.sub(r"https?://\S+", "…", line.rpartition(" - ")[2])[:_LONGEST_REASON].rstrip(": ")


def _open(location: Location, settings: StoreSettings, secrets: Secrets | None) -> Any:
    common: dict[str, Any] = {
        "client_options": _client_options(location, settings),
        "retry_config": {"max_retries": 0},
        "skip_signature": settings.credentials == "anonymous",
    }
    values = {} if secrets is None else dict(secrets.values)
    opener = {"s3": _open_s3, "gs": _open_gs, "az": _open_az}[location.service]
    return opener(location, settings, values, common)


def _client_options(location: Location, settings: StoreSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_http": location.endpoint.startswith("http:"),
        "connect_timeout": f"{min(_CONNECT_SECONDS, settings.timeout)} s",
        "timeout": f"{settings.timeout} s",
    }
    if settings.proxy:
        options["proxy_url"] = settings.proxy
    if settings.ca:
        try:
            with open(settings.ca, "rb") as file:
                options["root_certificate"] = file.read()
        except OSError as error:
            raise CredentialsError(f"{settings.ca}: cannot be read: {error.strerror}") from None
    return options


def _open_s3(
    location: Location, settings: StoreSettings, values: dict[str, str], common: dict[str, Any]
) -> Any:
    region = settings.region or _AMAZON_REGION
    is_virtual = settings.style == "virtual"
    server = location.endpoint or f"https://s3.{region}.amazonaws.com"
    config = common | {
        "region": region,
        "virtual_hosted_style_request": is_virtual,
        "endpoint": server.replace("://", f"://{location.bucket}.") if is_virtual else server,
        "disable_bulk_delete": True,
        "conditional_put": "etag",
    }
    named = {"server_side_encryption": settings.sse, "sse_kms_key_id": settings.kms_key}
    config |= {name: value for name, value in named.items() if value}
    if settings.checksum:
        config["checksum_algorithm"] = settings.checksum
    if values:
        key = {
            "access_key_id": _value(values, "access_key_id", settings),
            "secret_access_key": _value(values, "secret_access_key", settings),
            "token": values.get("session_token"),
            "expires_at": None,
        }
        config["credential_provider"] = lambda: key
    return S3Store(location.bucket, **config)


def _open_gs(
    location: Location, settings: StoreSettings, values: dict[str, str], common: dict[str, Any]
) -> Any:
    common["base_url"] = location.endpoint or "https://storage.googleapis.com"
    if values.get("token"):
        token: GCSCredential = {"token": values["token"], "expires_at": None}
        return GCSStore(location.bucket, credential_provider=lambda: token, **common)
    if values:
        common["service_account_key"] = _value(values, "service_account_key", settings)
    return GCSStore(location.bucket, **common)


def _open_az(
    location: Location, settings: StoreSettings, values: dict[str, str], common: dict[str, Any]
) -> Any:
    host = location.endpoint or f"https://{location.account}.blob.core.windows.net"
    config = common | {
        "account_name": location.account,
        "endpoint": f"{host}/{location.account}" if location.endpoint else host,
        "use_emulator": False,
    }
    if values:
        token = values.get("token")
        secret = {"token": token} if token else {"access_key": _value(values, "account_key", settings)}
        config["credential_provider"] = lambda: secret | {"expires_at": None}
    return AzureStore(location.bucket, **config)


def _value(values: dict[str, str], name: str, settings: StoreSettings) -> str:
    if name not in values:
        raise CredentialsError(f"{settings.credentials}: {name} is missing")
    return values[name]
