"""The trail as files: JSON Lines and CSV. Pure."""

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from hub.audit.chain import FIELDS, Fields, canonical

Format = Literal["jsonl", "csv"]

FORMATS: Final[Mapping[str, str]] = {"jsonl": "application/x-ndjson", "csv": "text/csv"}
"""The formats, and their media types."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets take for the beginning of a formula (OWASP, "CSV injection"); the last four are
those of East Asian keyboards."""


async def lines(format: Format, pages: AsyncIterable[Sequence[Fields]]) -> AsyncIterator[bytes]:
    """The file, a chunk for each page."""
    if format == "csv":
        yield _rows([FIELDS])
    async for page in pages:
        yield _csv(page) if format == "csv" else _jsonl(page)


def _jsonl(entries: Iterable[Fields]) -> bytes:
    return b"".join(canonical(entry) + b"\n" for entry in entries)


def _csv(entries: Iterable[Fields]) -> bytes:
    return _rows([_cell(entry.get(name)) for name in FIELDS] for entry in entries)


def _rows(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # RFC 4180
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Text that no spreadsheet takes for a formula."""
    if isinstance(value, dict):
        value = canonical(value).decode()
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
