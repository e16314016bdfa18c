"""What each route of the hub takes and answers, for `backend.hub.openapi`: data, in the order of the routes.

Spec: docs/format/hub_api.md, which says the same for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backend import wire
from backend.hub.accounts import KINDS, MAX_EMAIL
from backend.packs import MAX_BLOCK_SIZE
from backend.upstream import BLOCK_ID_SIZE

Schema = Mapping[str, Any]
"""JSON Schema, as OpenAPI 3.1 has it."""
BYTES: Final[Schema] = {}
"""A body of `application/octet-stream`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a route. `answers`: bodies of its successes, by status; None: there is none. `body`: of the
    request. `query`, `headers`: parameters, by name; a header that is named is asked for. `problems`:
    statuses beside those that every operation has. `is_open`: no token is asked for."""

    summary: str
    answers: Mapping[int, Schema | None]
    body: Schema | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    is_open: bool = False


def _digits(least: int, most: int) -> Schema:
    """So many bytes in hexadecimal digits."""
    return {"type": "string", "pattern": f"^([0-9a-fA-F]{{2}}){{{least},{most}}}$"}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": [*required]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_NUMBER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
_COST: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": (1 << 32) - 1}
_TEXT: Final[Schema] = {"type": "string", "maxLength": 64}
_EMAIL: Final[Schema] = {"type": "string", "maxLength": MAX_EMAIL}
_KIND: Final[Schema] = {"enum": [*KINDS]}
_KEY: Final = _digits(wire.KEY_SIZE, wire.KEY_SIZE)
_SEALED: Final = _digits(1, wire.MAX_SEALED)
_UUID: Final = _digits(16, 16)
_HEAD: Final[Schema] = {"type": "string", "pattern": "^[0-9]{1,19}:[0-9a-fA-F]{64}$"}
_COSTS: Final[Mapping[str, Schema]] = {"memory_kib": _COST, "iterations": _COST, "lanes": _COST}
_CREDENTIAL: Final = _object({"salt": _KEY, **_COSTS, "auth_key": _KEY, "wrapped": _SEALED})
_PROOF: Final[Mapping[str, Schema]] = {"auth_key": _KEY}
_OPTIONAL: Final[Mapping[str, Schema]] = {"kind": _KIND, "code": _TEXT}
_PROVED: Final = _object(_PROOF, _OPTIONAL)
_DEVICE: Final = _object(
    {
        "number": _NUMBER,
        "name": _digits(0, wire.MAX_SEALED),
        "created": _NUMBER,
        "seen": _NUMBER,
        "expires": _NUMBER,
        "revoked": {"type": ["integer", "null"]},
    }
)
_DRIVE: Final = _object(
    {
        "uuid": _UUID,
        "sealed": _digits(0, wire.MAX_SEALED),
        "bytes": _NUMBER,
        "head": _NUMBER,
        "importing": {"type": "boolean"},
        "departure": {"type": "integer", "minimum": 0, "maximum": 2},
        "nodes": _digits(0, wire.NODES_SIZE),
    }
)
_ACCOUNT: Final = _object(
    {
        "email": _EMAIL,
        "created": _NUMBER,
        "has_factor": {"type": "boolean"},
        "device": _NUMBER,
        "token_is_due": {"type": "boolean"},
        **dict.fromkeys(("quota", "used", "kept", "left"), _NUMBER),
    }
)
_USAGE: Final = _object(dict.fromkeys(("blocks", "bytes", "packs", "lacking", "quota", "left"), _NUMBER))
_HEADS: Final[Schema] = {"type": "object", "additionalProperties": _NUMBER}
_WAIT: Final = _object(
    {"drives": {**_HEADS, "minProperties": 1, "maxProperties": wire.MAX_IDS, "propertyNames": _UUID}},
    {
        "presence": {**_HEADS, "maxProperties": wire.MAX_IDS, "propertyNames": _UUID},
        "timeout": {"type": "number", "minimum": 0, "maximum": wire.MAX_WAIT},
    },
)
_TICKET: Final = _digits(wire.TICKET_SIZE, wire.TICKET_SIZE)
_NODES: Final = _digits(wire.NODES_SIZE, wire.NODES_SIZE)
_MOVED: Final[Mapping[str, Schema]] = {"Expected-Head": _HEAD, "Import-Ticket": _TICKET}
_DONE: Final[Mapping[int, Schema | None]] = {204: None}

PARAMETERS: Final[Mapping[str, Schema]] = {
    "uuid": _UUID,
    "device": _NUMBER,
    "block": _digits(BLOCK_ID_SIZE, BLOCK_ID_SIZE),
    "name": {"type": "string", "pattern": f"^{wire.ROOT_NAME}$"},
}
"""The parts of paths."""
_DRIVE_PATH: Final = "/v1/drives/{uuid}"
OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/v1/accounts"): Operation(
        "Sign up",
        {201: None},
        _object({"email": _EMAIL, **dict.fromkeys(KINDS, _CREDENTIAL)}, {"invitation": _TEXT}),
        problems=(409, 422),
        is_open=True,
    ),
    ("POST", "/v1/login/start"): Operation(
        "The salt and cost of an address's secret",
        {200: _object({"salt": _KEY, **_COSTS})},
        _object({"email": _EMAIL}, {"kind": _KIND}),
        problems=(422,),
        is_open=True,
    ),
    ("POST", "/v1/login/finish"): Operation(
        "A new device of the account",
        {200: _object({"token": _KEY, "device": _NUMBER, "wrapped": _SEALED})},
        _object({"email": _EMAIL, **_PROOF}, _OPTIONAL),
        problems=(403, 409, 422),
        is_open=True,
    ),
    ("GET", "/v1/account"): Operation("The account", {200: _ACCOUNT}),
    ("DELETE", "/v1/account"): Operation("End the account", _DONE, _PROVED),
    ("PUT", "/v1/account/login"): Operation(
        "Another passphrase or recovery key",
        _DONE,
        _object({"proof": _PROVED}, dict.fromkeys(KINDS, _CREDENTIAL)),
    ),
    ("POST", "/v1/account/factor"): Operation(
        "A second factor, to be confirmed",
        {200: _object({"secret": {"type": "string"}, "uri": {"type": "string"}})},
        _PROVED,
        problems=(409,),
    ),
    ("PUT", "/v1/account/factor"): Operation("Confirm it", _DONE, _object({"code": _TEXT}), problems=(422,)),
    ("DELETE", "/v1/account/factor"): Operation("No second factor any more", _DONE, _PROVED),
    ("GET", "/v1/devices"): Operation("The devices", {200: _object({"devices": _list(_DEVICE)})}),
    ("GET", "/v1/devices/{device}"): Operation("One of them", {200: _DEVICE}),
    ("PATCH", "/v1/devices/{device}"): Operation("Name it", _DONE, _object({"name": _SEALED})),
    ("DELETE", "/v1/devices/{device}"): Operation("Revoke it", _DONE),
    ("POST", "/v1/devices/{device}/rotate"): Operation("Another token", {200: _object({"token": _KEY})}),
    ("GET", "/v1/drives"): Operation("The drives", {200: _object({"drives": _list(_DRIVE)})}),
    ("POST", "/v1/drives"): Operation(
        "A new drive",
        {201: None},
        _object({"uuid": _UUID, "sealed": _SEALED}, {"ticket": _TICKET}),
        problems=(409, 422),
    ),
    ("GET", _DRIVE_PATH): Operation("One of them", {200: _DRIVE}),
    ("PATCH", _DRIVE_PATH): Operation("Its name and key, sealed", _DONE, _object({"sealed": _SEALED})),
    ("DELETE", _DRIVE_PATH): Operation("Delete it", _DONE),
    ("PUT", f"{_DRIVE_PATH}/presence"): Operation(
        "Show what this device is doing, for a minute", _DONE, BYTES, problems=(422,)
    ),
    ("GET", f"{_DRIVE_PATH}/presence"): Operation("What other devices show", {200: BYTES}),
    ("POST", "/v1/wait"): Operation(
        "Wait for commits, and for presences",
        {200: _object({"drives": _HEADS}, {"presence": _HEADS}), 204: None},
        _WAIT,
        problems=(404,),
    ),
    ("GET", f"{_DRIVE_PATH}/head"): Operation("The newest commit", {200: _HEAD}),
    ("POST", f"{_DRIVE_PATH}/log"): Operation(
        "Append a commit", {201: _HEAD}, BYTES, headers={"Expected-Head": _HEAD}, problems=(409, 422, 507)
    ),
    ("GET", f"{_DRIVE_PATH}/log"): Operation(
        "Commits after a number", {200: BYTES}, query={"after": _NUMBER, "limit": _NUMBER}
    ),
    ("POST", f"{_DRIVE_PATH}/blocks"): Operation("Store blocks", _DONE, BYTES, problems=(422, 507)),
    ("GET", f"{_DRIVE_PATH}/blocks"): Operation(
        "Ids of blocks",
        {200: BYTES},
        query={"after": _digits(BLOCK_ID_SIZE, BLOCK_ID_SIZE), "limit": _NUMBER},
    ),
    ("POST", f"{_DRIVE_PATH}/blocks/missing"): Operation(
        "The ids of those that are not stored", {200: BYTES}, BYTES, problems=(422,)
    ),
    ("POST", f"{_DRIVE_PATH}/blocks/sizes"): Operation("Their sizes", {200: BYTES}, BYTES, problems=(422,)),
    ("GET", f"{_DRIVE_PATH}/blocks/{{block}}"): Operation(
        "A block, or part of it",
        {200: BYTES},
        query={
            "offset": _NUMBER,
            "length": {**_NUMBER, "default": MAX_BLOCK_SIZE},
            "again": _TEXT,
            "near": _TEXT,
        },
    ),
    ("PUT", f"{_DRIVE_PATH}/blocks/{{block}}"): Operation("Store a block", _DONE, BYTES, problems=(422, 507)),
    ("POST", f"{_DRIVE_PATH}/blocks/{{block}}/wrong"): Operation(
        "It is another block", {200: _object({"elsewhere": {"type": "boolean"}})}
    ),
    ("GET", f"{_DRIVE_PATH}/usage"): Operation("What it takes", {200: _USAGE}),
    ("GET", f"{_DRIVE_PATH}/roots/{{name}}"): Operation("A root", {200: BYTES}),
    ("PUT", f"{_DRIVE_PATH}/roots/{{name}}"): Operation("Replace it", _DONE, BYTES, problems=(422, 507)),
    ("PUT", f"{_DRIVE_PATH}/import"): Operation(
        "Move a drive here: this mover counts",
        _DONE,
        _object({"ticket": _TICKET, "nodes": _NODES}),
        problems=(409,),
    ),
    ("POST", f"{_DRIVE_PATH}/import/log"): Operation(
        "Append a commit that is moved", {201: _HEAD}, BYTES, headers=_MOVED, problems=(409, 422, 507)
    ),
    ("DELETE", f"{_DRIVE_PATH}/import"): Operation(
        "All was moved", _DONE, headers=_MOVED, problems=(409, 422)
    ),
    ("PUT", f"{_DRIVE_PATH}/departure"): Operation(
        "Move a drive away: this mover counts",
        _DONE,
        _object({"ticket": _TICKET, "nodes": _NODES}, {"over": {"type": "boolean"}}),
        problems=(409,),
    ),
    ("PUT", f"{_DRIVE_PATH}/departure/end"): Operation(
        "No device's commit comes after this one",
        {200: _HEAD},
        headers={"Import-Ticket": _TICKET},
        problems=(409,),
    ),
    ("POST", f"{_DRIVE_PATH}/departure"): Operation(
        "It was moved away", _DONE, headers={"Import-Ticket": _TICKET}, problems=(409,)
    ),
    ("DELETE", f"{_DRIVE_PATH}/departure"): Operation(
        "It is not moved away", _DONE, headers={"Import-Ticket": _TICKET}, problems=(409,)
    ),
    ("GET", "/v1/openapi.json"): Operation(
        "This description", {200: {"type": "object", "required": ["openapi", "paths"]}}, is_open=True
    ),
}
