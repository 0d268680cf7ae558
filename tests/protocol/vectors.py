"""The golden frames, read from ``tests/vectors/``."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from hub.protocol.frames import ErrorReply, Frame, Notification, Reply, Request

VECTORS = Path(__file__).parent.parent / "vectors"


def rows(file: str, key: str = "frames") -> list[dict[str, Any]]:
    """The rows of a file of golden frames."""
    found: list[dict[str, Any]] = json.loads((VECTORS / file).read_text("utf-8"))[key]
    return found


def params(found: list[dict[str, Any]]) -> list[Any]:
    """The rows as pytest parameters, by their names."""
    return [pytest.param(row, id=row["name"]) for row in found]


def data_of(row: dict[str, Any]) -> bytes:
    """The bytes of a row."""
    if "base64" in row:
        return base64.b64decode(row["base64"])
    parts = row.get("parts", [row.get("text")])
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts).encode()


def frame_of(row: dict[str, Any]) -> Frame:
    """What a row of ``frames.json`` means."""
    match row["frame"]:
        case {"kind": "request", "id": id, "method": method, "params": params}:
            return Request(id, method, params)
        case {"kind": "reply", "id": id, "result": result}:
            return Reply(id, result)
        case {"kind": "error", "id": id, "error": error}:
            return ErrorReply(id, error)
        case {"kind": "notification", "method": method, "params": params}:
            return Notification(method, params)
    raise AssertionError(f"a row of no known kind: {row['name']}")
