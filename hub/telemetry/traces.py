"""Trace ids: taken from a caller's W3C ``traceparent`` or made, and bound to the log lines."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.contextvars import bound_contextvars

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_id_of(traceparent: str | None) -> str:
    """The trace id of a ``traceparent``; a new one if there is none or it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match and set(match[1]) != {"0"} and set(match[2]) != {"0"}:
        return match[1]
    return secrets.token_hex(16)


@contextmanager
def traced(trace_id: str, **facts: str) -> Iterator[None]:
    """Log lines inside carry ``trace_id`` and ``facts``."""
    with bound_contextvars(trace_id=trace_id, **facts):
        yield
