"""``/openapi.json``: OpenAPI 3.1, derived from the table of operations."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from hub import __version__
from hub.faults import FAULTS
from hub.operations.operation import PUBLIC, AnyOperation, Streamed
from hub.transports.sse import PATH as EVENTS_PATH

REF: Final = "#/components/schemas/{model}"

ERROR_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "data"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "data": {
                    "type": "object",
                    "required": ["reason", "retryable"],
                    "properties": {
                        "reason": {"enum": sorted(FAULTS)},
                        "retryable": {"type": "boolean"},
                        "details": {"type": "object"},
                        "trace_id": {"type": "string"},
                    },
                },
            },
        }
    },
}

_ALWAYS: Final = (
    "parse_error",
    "invalid_request",
    "invalid_params",
    "rate_limited",
    "internal_error",
    "backend_unavailable",
    "timeout",
)
_SIGNED_IN: Final = ("unauthenticated", "token_expired", "enrolment_required")


def schemas_of(operations: Mapping[str, AnyOperation]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The JSON schemas of all params and results, and the definitions that they refer to; not to be
    changed, since all who ask for the same are given the same.
    """
    models: list[tuple[Any, JsonSchemaMode]] = []
    for operation in operations.values():
        models += [(operation.params, "validation"), (operation.result, "serialization")]
    return _generated(tuple(dict.fromkeys(models)))


@lru_cache(maxsize=1)  # three documents are made of one table
def _generated(
    models: tuple[tuple[Any, JsonSchemaMode], ...],
) -> tuple[dict[Any, Any], dict[str, Any]]:
    schemas, shared = models_json_schema(models, ref_template=REF)
    return schemas, shared.get("$defs", {})


def _responses(operation: AnyOperation, result: Any) -> dict[str, Any]:
    assert operation.http is not None
    responses: dict[str, Any] = {
        str(operation.http.status): {
            "description": "Done.",
            "content": _content(operation, result),
        }
    }
    reasons = {*_ALWAYS, *operation.faults}
    if operation.permission != PUBLIC:
        reasons |= set(_SIGNED_IN)
    if operation.while_enrolling:
        reasons.discard("enrolment_required")
    if operation.http.method == "POST" and operation.permission != PUBLIC:
        reasons.add("conflict")  # an Idempotency-Key used for something else
    by_status: dict[int, list[str]] = {}
    for reason in FAULTS:
        if reason in reasons:
            by_status.setdefault(FAULTS[reason].http, []).append(reason)
    for status, names in by_status.items():
        responses[str(status)] = _error(", ".join(f"`{name}`" for name in names))
    return dict(sorted(responses.items()))


def _content(operation: AnyOperation, result: Any) -> dict[str, Any]:
    if issubclass(operation.result, Streamed):
        return {media: {"schema": {"type": "string"}} for media in operation.result.media}
    return {"application/json": {"schema": result}}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": REF.format(model="Error")}}},
    }


def _path_item(operation: AnyOperation, params: Mapping[str, Any], result: Any) -> dict[str, Any]:
    assert operation.http is not None
    properties: Mapping[str, Any] = params.get("properties", {})
    required = params.get("required", [])
    in_path = operation.http.path_parameters
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": properties[name]}
        for name in in_path
    ]
    item: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.family],
        "summary": operation.summary,
        "description": operation.description or operation.summary,
    }
    rest = {name: schema for name, schema in properties.items() if name not in in_path}
    if operation.http.method in ("POST", "PATCH"):
        needed = [name for name in required if name not in in_path]
        if operation.http.method == "POST" and operation.permission != PUBLIC:
            parameters.append(_idempotency_key())
        if rest:
            body: dict[str, Any] = {
                "type": "object",
                "properties": rest,
                "additionalProperties": False,
            }
            if needed:
                body["required"] = needed
            item["requestBody"] = {
                "required": bool(needed),
                "content": {"application/json": {"schema": body}},
            }
    else:
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": name in required,
                "description": schema.get("description", ""),
                "schema": _not_null(schema),
            }
            for name, schema in rest.items()
        ]
    item["parameters"] = parameters
    item["responses"] = _responses(operation, result)
    item["security"] = [] if operation.permission == PUBLIC else [{"bearer": []}]
    if operation.permission != PUBLIC:
        item["x-permission"] = operation.permission
    return item


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same key again within 24 hours gives the same answer, once done.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    }


def _not_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A query parameter is absent rather than null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _events_path() -> dict[str, Any]:
    errors = {"401": "unauthenticated", "403": "permission_denied", "404": "not_found"}
    errors |= {"422": "invalid_params", "429": "rate_limited", "500": "internal_error"}
    errors |= {"503": "backend_unavailable"}
    return {
        "get": {
            "operationId": "channel.events",
            "tags": ["channel"],
            "summary": "Stream a channel as server-sent events",
            "description": "What was missed since a position, then live. Each event's `id` is "
            "`epoch:seq`; send the last one as `Last-Event-ID` (or `since`) to resume.",
            "parameters": [
                {
                    "name": "channel",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "maxLength": 64},
                },
                {
                    "name": "since",
                    "in": "query",
                    "required": False,
                    "description": "`start` or `epoch:seq`; none: from now on.",
                    "schema": {"type": "string", "pattern": "^(start|[A-Za-z0-9_-]+:[0-9]{1,15})$"},
                },
            ],
            "responses": {
                "200": {"description": "The stream.", "content": {"text/event-stream": {}}},
                **{status: _error(f"`{reason}`") for status, reason in errors.items()},
            },
            "security": [{"bearer": []}],
            "x-permission": "channel:subscribe",
        }
    }


def openapi(operations: Mapping[str, AnyOperation]) -> dict[str, Any]:
    """The document."""
    schemas, definitions = schemas_of(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations.values():
        if operation.http is None:
            continue
        params = schemas[(operation.params, "validation")]
        if "$ref" in params:
            params = definitions[params["$ref"].rpartition("/")[2]]
        item = _path_item(operation, params, schemas[(operation.result, "serialization")])
        paths.setdefault(operation.http.path, {})[operation.http.method.lower()] = item
    paths[EVENTS_PATH] = _events_path()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Realtime agent hub",
            "version": __version__,
            "description": "The operations of the hub over HTTP. The same operations, and the "
            "events, are on the WebSocket: see `/asyncapi.json`.",
        },
        "paths": paths,
        "components": {
            "schemas": {**definitions, "Error": ERROR_SCHEMA},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token, or an API key (`ahk_…`).",
                }
            },
        },
    }
