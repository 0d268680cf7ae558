"""Trace and request ids: a caller's (W3C ``traceparent``, ``X-Request-Id``) or made, and bound to
the log lines.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.contextvars import bound_contextvars

from hub.ids import new_id

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_id_of(traceparent: str | None) -> str:
    """The trace id of a ``traceparent``; a new one if there is none or it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match and set(match[1]) != {"0"} and set(match[2]) != {"0"}:
        return match[1]
    return secrets.token_hex(16)


_REQUEST_ID = re.compile(r"[!-~]{1,128}")


def request_id_of(given: str | None) -> str:
    """The caller's name for a request; a new one unless it is 1 to 128 visible ASCII characters."""
    return given if given and _REQUEST_ID.fullmatch(given) else new_id("q")


@contextmanager
def traced(trace_id: str, **facts: str | int) -> Iterator[None]:
    """Log lines inside carry ``trace_id`` and ``facts``."""
    with bound_contextvars(trace_id=trace_id, **facts):
        yield
