"""The hub's description of itself: it is of all its routes, and what it answers is what it describes
(schemathesis makes the requests)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from backend.hub import app
from backend.hub.openapi import PATH, document
from tests import plain_http
from tests.hub_server import RunningHub, hub_for_test

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def described(running: RunningHub) -> dict[str, Any]:
    answer = plain_http.get(f"{running.url}/v1/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def test_it_is_of_all_routes(running: RunningHub) -> None:
    routes = [route for route in app(running.hub).routes if isinstance(route, Route)]
    found = described(running)
    assert {path for path, _ in ((route.path, route) for route in routes)} == found["paths"].keys()
    assert document(routes) == found
    with pytest.raises(ValueError, match="/v1/wait"):
        document([route for route in routes if route.path != "/v1/wait"])


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_it_answers_as_it_describes(running: RunningHub, mode: GenerationMode) -> None:
    """Requests that are what it asks for, and such that are not, of each operation, about a drive and a
    device that there are."""
    schema = schemathesis.openapi.from_dict(with_complete_answers(described(running)))
    count = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.POSITIVE or operation.path != PATH:  # of which nothing can be wrong
            ask(running, operation, mode)
        count += 1
    assert count == sum(len(methods) for methods in described(running)["paths"].values())


def with_complete_answers(found: dict[str, Any]) -> dict[str, Any]:
    """The description, as one that leaves out nothing that is answered."""
    for methods in found["paths"].values():
        for operation in methods.values():
            operation["responses"] = complete(operation["responses"])
    return found | {"components": complete(found["components"])}


def complete(found: Any) -> Any:
    if isinstance(found, dict):
        closed = {"additionalProperties": False} if "properties" in found else {}
        return {name: complete(each) for name, each in found.items()} | closed
    return [complete(each) for each in found] if isinstance(found, list) else found


def test_each_kind_of_problem_is_on_the_page_and_in_the_description(running: RunningHub) -> None:
    kinds = described(running)["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    page = (Path(__file__).parents[4] / "docs/format/hub_api.md").read_text()
    (told,) = re.findall(r"`urn:drivefs:` and one of\s([^.]*)\.", page)
    assert sorted(f"urn:drivefs:{kind}" for kind in re.findall(r"`(\w+)`", told)) == sorted(kinds)


def ask(running: RunningHub, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
    """The operation, several times, by an account of its own."""
    uuid, token = running.new_drive()
    number = running.call(running.hub.directory.device(token)).number
    own = {"uuid": uuid.hex(), "device": str(number)}
    headers = {"Authorization": f"Bearer {token.hex()}"}

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        for name in (case.path_parameters or {}).keys() & own.keys():
            case.path_parameters[name] = own[name]
        if isinstance(case.body, dict) and "timeout" in case.body:
            case.body["timeout"] = 0
        case.call_and_validate(base_url=running.url, headers=headers, checks=CHECKS)

    call()
