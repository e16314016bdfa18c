"""The hub's description of itself (OpenAPI 3.1), made from its table of routes. Pure functions.

A route that `OPERATIONS` does not describe, or a description without a route, is an error when the
application is made: so the two agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend import wire
from backend.hub.api_description import BYTES, OPERATIONS, PARAMETERS, Operation, Schema

PATH: Final = "/v1/openapi.json"
_COMMON: Final = (400, 408, 413, 429, 431, 500, 503)
"""Statuses of problems that every operation may have: of those without a token too."""
_KINDS: Final = (
    *wire.PROBLEMS,
    "unauthorised",
    "expired",
    "too_large",
    "too_slow",
    "bad_request",
    "internal",
)
_PROBLEM: Final[Schema] = {
    "type": "object",
    "properties": {
        "type": {"enum": [wire.PROBLEM + kind for kind in _KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "blocks": {"type": "array", "items": PARAMETERS["block"]},
    },
    "required": ["type", "title", "status", "detail"],
}


def with_description(routes: Sequence[Route]) -> list[Route]:
    """These, and one that describes them all."""
    encoded = b""

    async def answer(_request: Request) -> Response:
        return Response(encoded, media_type="application/json")

    found = [*routes, Route(PATH, answer)]
    encoded = json.dumps(document(found)).encode()
    return found


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of these routes. `ValueError`: they are not those of `OPERATIONS`."""
    declared = [(method, route.path) for route in routes for method in _methods(route)]
    if {*declared} != OPERATIONS.keys():
        raise ValueError(f"described otherwise than routed: {sorted({*declared} ^ OPERATIONS.keys())}")
    paths: dict[str, dict[str, Any]] = {}
    for method, path in declared:
        paths.setdefault(path, {})[method.lower()] = _operation(path, OPERATIONS[method, path])
    return {
        "openapi": "3.1.0",
        "info": {"title": "drivefs hub", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {"device": {"type": "http", "scheme": "bearer"}},
        },
    }


def _methods(route: Route) -> list[str]:
    """HEAD is GET without the body, everywhere."""
    return sorted((route.methods or set()) - {"HEAD"})


def _operation(path: str, operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": _parameters(path, operation),
        "responses": _responses(path, operation),
        "security": [] if operation.is_open else [{"device": []}],
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(operation.body)}
    return found


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    named = re.findall(r"{(\w+)}", path)
    return [
        *(_parameter("path", name, PARAMETERS[name], is_needed=True) for name in named),
        *(_parameter("query", *each, is_needed=False) for each in operation.query.items()),
        *(_parameter("header", *each, is_needed=True) for each in operation.headers.items()),
    ]


def _parameter(where: str, name: str, schema: Schema, *, is_needed: bool) -> dict[str, Any]:
    return {"in": where, "name": name, "required": is_needed, "schema": schema}


def _responses(path: str, operation: Operation) -> dict[str, Any]:
    statuses = {*_COMMON, *operation.problems}
    if not operation.is_open:
        statuses |= {401, 403}
    if "{" in path:
        statuses.add(404)
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    found: dict[str, Any] = {
        str(status): {"description": "a problem (RFC 9457)", "content": problem}
        for status in sorted(statuses)
    }
    for status, body in operation.answers.items():
        content = {} if body is None else {"content": _content(body)}
        found[str(status)] = {"description": operation.summary, **content}
    return found


def _content(schema: Schema) -> Mapping[str, Any]:
    if schema is BYTES:
        return {"application/octet-stream": {}}
    is_text = schema.get("type") == "string"
    return {"text/plain" if is_text else "application/json": {"schema": schema}}
