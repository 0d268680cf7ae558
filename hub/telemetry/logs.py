"""Structured logs: one line per thing that happened, console or JSON, without secrets.

A line costs some 90 microseconds, so nothing is logged per frame or token.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from hub.faults import Fault

REDACTED: Final = "[redacted]"

_SECRET_NAME = re.compile(
    r"passw|secret|token(?!s\b|_type|_id)|authorization|cookie|(api|private)[-_]?key|credential"
    r"|code\b",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JWT
    r"|ahk_\w+"  # an API key
    r"|(?i:bearer)\s+\S+"
    r"|(?<=://)[^\s/:@]*:[^\s/]+(?=@)"  # user:password in a URL
    r"|(?<=\?code=|#code=)[\w-]+"
)


# These say at "info" what our own lines say better, once per request or step; at "debug" some of
# them write every row, header and frame, secrets included.
_NOISY: Final = (
    "aiosqlite", "alembic", "asyncio", "httpcore", "httpx", "ollama", "sqlalchemy",
    "uvicorn.access", "uvicorn.error", "websockets",
)  # fmt: skip


def redact(value: Any, name: str = "") -> Any:
    """``value`` without what its name or its form gives away as a secret; recursive.

    Of what is no JSON value, the ``repr`` is looked at, because that is what would be written.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if name and _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    text = value if isinstance(value, str) else repr(value)
    clean = _SECRET_VALUE.sub(REDACTED, text)
    return value if clean == text else clean


def _redaction(_logger: Any, _method: str, event: EventDict) -> MutableMapping[str, Any]:
    return {key: redact(value, key) for key, value in event.items()}


def configure_logs(*, form: str, level: str, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's lines to ``stream`` (default: stderr).

    ``form`` is ``console`` or ``json``; ``level`` a lower-case level name. Call once, first.
    """
    stream = stream or sys.stderr
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        # A traceback becomes a field, so that a line stays a line.
        finish: list[Processor] = [structlog.processors.format_exc_info, _redaction]
        renderer: Processor = structlog.processors.JSONRenderer()
    else:
        finish = [structlog.processors.format_exc_info, _redaction]
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, *finish, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *finish,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(severity)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(severity, logging.WARNING))
        logging.getLogger(noisy).handlers.clear()
        logging.getLogger(noisy).propagate = True


log: structlog.stdlib.BoundLogger = structlog.get_logger()
"""The logger of the hub. ``log.info("run finished", run=run_id)``: a plain sentence, then facts."""


def log_failure(fault: Fault, **facts: str) -> None:
    """A line for what failed because a part of the hub is away; none for the caller's mistakes.

    What nobody foresaw is an error, logged with its traceback where it is caught.
    """
    if fault.kind.http >= 500 and fault.kind.retryable:
        log.warning("an operation failed", reason=fault.reason, why=fault.message, **facts)
