"""``/asyncapi.json``: AsyncAPI 3.0 of the WebSocket, derived from the table of operations."""

from collections.abc import Mapping
from typing import Any, Final

from hub import __version__
from hub.operations.operation import AnyOperation
from hub.protocol.limits import SUBPROTOCOL
from hub.transports.openapi import ERROR_SCHEMA, schemas_of

NOTICES: Final[Mapping[str, str]] = {
    "event": "An event of a channel that is followed, at its position; of presence, at none.",
    "session.ready": "The first frame after authentication.",
    "session.expiring": "The access token runs out in 30 s; send `session.refresh`.",
    "session.revoked": "The session is over, and `reason` says why; the close 4503 follows.",
    "session.draining": "The node is going away; reconnect.",
    "subscription.resumed": "A channel of the persistent session is followed again: what was missed"
    " since its acknowledged position follows, then live events.",
    "subscription.ended": "A subscription was ended by the hub; `reason` says why.",
}
"""What the hub sends of its own accord."""


def asyncapi(operations: Mapping[str, AnyOperation]) -> dict[str, Any]:
    """The document."""
    schemas, definitions = schemas_of(operations)
    messages: dict[str, Any] = {}
    offered = [operation for operation in operations.values() if operation.socket]
    for operation in offered:
        messages[f"{operation.name}.request"] = {
            "name": operation.name,
            "summary": operation.summary,
            "description": operation.description or operation.summary,
            "payload": _request(operation.name, schemas[(operation.params, "validation")]),
        }
        messages[f"{operation.name}.reply"] = {
            "name": f"{operation.name} reply",
            "payload": _reply(schemas[(operation.result, "serialization")]),
        }
    messages["error"] = {
        "name": "error",
        "summary": "A request was refused or failed; also a faulty frame (then `id` may be null).",
        "payload": _error(),
    }
    for name, meaning in NOTICES.items():
        messages[name] = {"name": name, "summary": meaning, "payload": _notice(name)}
    asked = {
        operation.name: {
            "action": "receive",
            "channel": {"$ref": "#/channels/socket"},
            "summary": operation.summary,
            "messages": [_message(f"{operation.name}.request")],
            "reply": {
                "channel": {"$ref": "#/channels/socket"},
                "messages": [_message(f"{operation.name}.reply"), _message("error")],
            },
        }
        for operation in offered
    }
    told = {
        f"send {name}": {
            "action": "send",
            "channel": {"$ref": "#/channels/socket"},
            "messages": [_message(name)],
        }
        for name in NOTICES
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Realtime agent hub",
            "version": __version__,
            "description": f"JSON-RPC 2.0 in text frames, subprotocol `{SUBPROTOCOL}`; events are "
            "AG-UI 1.0.",
        },
        "channels": {"socket": {"address": "/ws", "messages": messages}},
        "operations": {**asked, **told},
        "components": {"schemas": definitions},
    }


def _message(name: str) -> dict[str, str]:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return {"$ref": f"#/channels/socket/messages/{escaped}"}


def _frame(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["jsonrpc", *properties],
        "properties": {"jsonrpc": {"const": "2.0"}, **properties},
    }


def _request(name: str, params: Any) -> dict[str, Any]:
    identifier = {"type": ["string", "integer"]}
    return _frame({"id": identifier, "method": {"const": name}, "params": params})


def _reply(result: Any) -> dict[str, Any]:
    return _frame({"id": {"type": ["string", "integer"]}, "result": result})


def _error() -> dict[str, Any]:
    properties = ERROR_SCHEMA["properties"]
    return _frame({"id": {"type": ["string", "integer", "null"]}, **properties})


def _notice(name: str) -> dict[str, Any]:
    return _frame({"method": {"const": name}, "params": {"type": "object"}})
