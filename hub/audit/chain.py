"""The hash chain over the entries of one tenant. Pure.

``hub/audit/README.md`` says byte by byte how it is made, so that others can verify it without us.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

GENESIS: Final = "0" * 64
"""What the first entry of a chain has for the hash of the one before."""

Fields = dict[str, Any]
"""An entry as JSON has it: ``FIELDS`` without those that are null."""

FIELDS: Final = (
    "id", "tenant_id", "seq", "at", "action", "outcome", "actor_id", "session_id", "resource_kind",
    "resource_id", "transport", "address", "trace_id", "details", "previous_hash", "hash",
)  # fmt: skip
"""Everything that is known of an entry, in the order in which people read it."""


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON as RFC 8785 writes it: keys sorted, no space, UTF-8, nothing escaped that need not be.

    For what entries are made of: strings, integers, booleans, lists and objects with ASCII keys.
    """
    return orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS)


def hash_of(fields: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON of an entry: all it has but ``hash``."""
    present = {k: v for k, v in fields.items() if v is not None and k != "hash"}
    return hashlib.sha256(canonical(present)).hexdigest()


def instant(at: datetime) -> str:
    """An instant as entries write it: RFC 3339 in UTC, with microseconds, ``…Z``."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fields_of(row: Any) -> Fields:
    """The fields of a row of the table: anything that has ``FIELDS`` as attributes.

    ``details`` that are not the canonical JSON of an object stay the text that they are, which no
    hash is over; and so does whatever else is in another form than the hub writes it in.
    """
    fields = {name: _text(value) for name in FIELDS if (value := getattr(row, name)) is not None}
    fields["at"] = _instant(fields["at"])
    fields["details"] = _details(fields["details"])
    return fields


def _text(value: Any) -> Any:
    # SQLite keeps bytes in columns of text, where nothing that is looked for equals them.
    return f"x'{value.hex()}'" if isinstance(value, bytes) else value


def _instant(at: Any) -> Any:
    # SQLite's text, where it was read as it stands: what has been made of it need not be a date,
    # or is one that is sorted elsewhere.
    if isinstance(at, str):
        try:
            read = datetime.fromisoformat(at)
        except ValueError:
            return at
        if read.isoformat(" ", "microseconds") != at or read.tzinfo is not None:
            return at
        at = read.replace(tzinfo=UTC)
    return instant(at)


def _details(text: str) -> Any:
    try:
        details = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return details if isinstance(details, dict) and canonical(details) == text.encode() else text
