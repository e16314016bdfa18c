"""backend.nodes.object_store.location and settings: which URLs and settings name a node in a store."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backend.errors import UsageError
from backend.nodes import address
from backend.nodes.factory import place_at
from backend.nodes.object_store import location, settings

ANONYMOUS = {"credentials": "anonymous"}


@pytest.mark.parametrize(
    ("url", "service", "endpoint", "account", "bucket", "prefix"),
    [
        ("s3://bucket/a/b", "s3", "", "", "bucket", "a/b"),
        ("s3://bucket", "s3", "", "", "bucket", ""),
        ("s3://bucket/", "s3", "", "", "bucket", ""),
        ("S3://bucket/a/", "s3", "", "", "bucket", "a"),
        ("s3+https://host.example:9000/bucket/a", "s3", "https://host.example:9000", "", "bucket", "a"),
        ("s3+http://127.0.0.1:9000/bucket", "s3", "http://127.0.0.1:9000", "", "bucket", ""),
        ("s3+http://[::1]:9000/bucket", "s3", "http://[::1]:9000", "", "bucket", ""),
        ("s3+http://localhost/bucket", "s3", "http://localhost", "", "bucket", ""),
        ("gs://bucket/a", "gs", "", "", "bucket", "a"),
        ("gs+https://host:9/bucket/a", "gs", "https://host:9", "", "bucket", "a"),
        ("az://account/container/a/b", "az", "", "account", "container", "a/b"),
        ("az+http://127.0.0.1:10/account/container", "az", "http://127.0.0.1:10", "account", "container", ""),
    ],
)
def test_urls(url: str, service: str, endpoint: str, account: str, bucket: str, prefix: str) -> None:
    found = location.parse(address.parse(url, "/"))
    assert (found.service, found.endpoint, found.account) == (service, endpoint, account)
    assert (found.bucket, found.prefix) == (bucket, prefix)
    assert found.path("lease") == (f"{prefix}/lease" if prefix else "lease")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "names no bucket: it is s3://bucket/prefix"),
        ("s3+https://host", "names no bucket: it is s3+https://host:port/bucket/prefix"),
        ("s3+https:///bucket/a", "names no server"),
        ("s3+https://:443/bucket/a", "names no server"),
        ("s3+https://host:99999/bucket", "names no server: Port out of range"),
        ("s3+https://host:port/bucket", "names no server"),
        ("s3+http://server.example/bucket", "only a server on this machine is spoken to in clear"),
        ("s3+http://192.168.1.1:9000/bucket", "only a server on this machine is spoken to in clear"),
        ("s3+http://localhost.example/bucket", "only a server on this machine is spoken to in clear"),
        ("s3://bucket/../other", "the prefix has letters"),
        ("s3://bucket/a//b", "the prefix has letters"),
        ("s3://bucket/a b", "the prefix has letters"),
        ("s3://bucket/%2e%2e/b", "the prefix has letters"),
        ("s3://buc ket/a", "names no bucket"),
        ("az://account", "names no bucket: it is az://account/container/prefix"),
        ("az://Account/container", "an account at Azure has"),
        ("s3://bucket/a?colour=red", "colour is no setting of a node"),
        ("s3://bucket/a?max_requests=0", "max_requests: it is a whole number from 1 to 256"),
        ("s3://bucket/a?style=odd", "style: it is one of path, virtual"),
        ("s3://bucket/a?proxy=http://me:word@host:1", "without user and password"),
        ("s3://bucket/a?credentials=AKIAXXXX:secretsecret", "it is profile:NAME"),
        ("s3://bucket/a?credentials=file:relative", "an absolute path"),
        ("s3://bucket/a?credentials=command:rm -rf", "a name of letters"),
        ("s3://bucket/a?access_key=x", "no user, password or key"),
        ("az://account/c?sas=x", "no user, password or key"),
    ],
)
def test_what_is_no_place_in_a_store_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        place_at(url, "/", ANONYMOUS)
    assert words in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("me:word", "AKIAXXXX", "secretsecret"))


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("s3+https://Host.Example:443/bucket/a", "s3+https://host.example/bucket/a"),
        ("S3+HTTPS://host.example:0443/bucket/a/", "s3+https://host.example/bucket/a"),
        ("s3+https://host.example:/bucket/%61", "s3+https://host.example/bucket/a"),
        ("s3+http://LOCALHOST:80/bucket", "s3+http://localhost/bucket"),
        ("s3+http://[0:0::1]:80/bucket", "s3+http://[::1]/bucket"),
        ("s3+http://[::1]:0080/bucket", "s3+http://[::1]/bucket"),
        ("az+https://HOST:443/account/container/a", "az+https://host/account/container/a"),
        ("S3://bucket/a/", "s3://bucket/a"),
    ],
)
def test_one_place_has_one_location_however_it_is_written(url: str, same: str) -> None:
    assert location.parse(address.parse(url, "/")) == location.parse(address.parse(same, "/"))
    assert place_at(url, "/", ANONYMOUS) == place_at(same, "/", ANONYMOUS)
    assert place_at(url, "/", ANONYMOUS).url == same


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("s3://Bucket/a", "s3://bucket/a"),
        ("s3://bucket/A", "s3://bucket/a"),
        ("s3+https://host:444/bucket", "s3+https://host/bucket"),
        ("s3+https://host:80/bucket", "s3+https://host/bucket"),
        ("s3+https://localhost/bucket", "s3+http://localhost/bucket"),
    ],
)
def test_other_places_have_others(url: str, other: str) -> None:
    assert place_at(url, "/", ANONYMOUS) != place_at(other, "/", ANONYMOUS)


def test_without_credentials_it_is_said_how_to_name_them() -> None:
    with pytest.raises(UsageError, match="where are its credentials"):
        place_at("s3://bucket/a", "/")


def test_what_the_url_says_counts_more_and_is_kept() -> None:
    place = place_at("s3://bucket/a?credentials=profile:b&region=eu-central-1&max_requests=4", "/", ANONYMOUS)
    assert place.url == "s3://bucket/a"
    assert place.settings == {"credentials": "profile:b", "region": "eu-central-1", "max_requests": "4"}
    assert place_at(place.url, "/elsewhere", place.settings) == place


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_a_place_or_refused(text: str, value: str) -> None:
    for url in (f"s3://{text}", f"az+https://{text}", f"s3://bucket/a?credentials={text}"):
        try:
            place = place_at(url, "/", ANONYMOUS | {"region": value})
        except UsageError:
            continue
        assert place_at(place.url, "/", place.settings) == place


def test_each_setting_is_refused_or_kept_as_it_is() -> None:
    text = {"credentials": "env:A", "ca": "/ca.pem", "sse": "AES256", "style": "virtual"}
    found = settings.parse({**text, "timeout": 30}, "x")
    assert {name: getattr(found, name) for name in text} == text
    assert found.timeout == 30
