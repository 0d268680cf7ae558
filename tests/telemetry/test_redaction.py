"""Redaction: what a name or a form gives away as a secret does not survive."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hub.telemetry.logs import REDACTED, configure_logs, log, redact
from hub.telemetry.traces import trace_id_of, traced

SECRET = "correct-horse-battery-staple"
NAMES = (
    "password", "new_password", "Password", "token", "access_token", "refresh_token", "secret",
    "JWT_SECRET_KEY", "authorization", "Authorization", "cookie", "set-cookie", "api_key",
    "apikey", "x-api-key", "credential", "credentials", "code", "private_key", "passwd",
)  # fmt: skip
NESTED = st.recursive(
    st.just(SECRET) | st.just(SECRET.encode()),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "value", "x_type"]), inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(NAMES), NESTED)
def test_nothing_survives_under_a_secret_name_however_deep(name: str, value: Any) -> None:
    assert SECRET not in repr(redact({"outer": [{name: value}]}))


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {SECRET}",
        f"header: bearer  {SECRET}",
        f"could not connect to redis://user:{SECRET}@127.0.0.1:6379/0",
        f"redis://:{SECRET}@host",
        f"postgresql+asyncpg://hub:{SECRET}@db/hub",
        f"postgresql://hub:p@ss-{SECRET}@db/hub",
        f"http://127.0.0.1:8000/#code={SECRET}",
        f"http://127.0.0.1:8000/?code={SECRET}&x=1",
        f"got eyJhbGciOiJIUzI1NiJ9.{SECRET}.c2ln in a header",
    ],
)
def test_a_secret_is_known_by_its_form(text: str) -> None:
    for value in (text, [text], {"note": text}, text.encode(), ValueError(text), {text}):
        shown = repr(redact({"event": value}))
        assert SECRET not in shown
        assert REDACTED in shown


@pytest.mark.parametrize(
    "facts",
    [
        {"run": "r_01M81P4RYDWSAFH7EPS7KRN2ZE", "tokens": 12},
        {"code": 4030, "status_code": 200, "token_type": "bearer", "token_id": "x"},
        {"url": "http://127.0.0.1:8000", "why": "no answer within 2 s", "retryable": True},
        {"nothing": None, "ratio": 0.5, "names": ["a", "b"]},
    ],
)
def test_what_is_no_secret_stays(facts: dict[str, Any]) -> None:
    assert redact(facts) == facts


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_redacting_twice_is_redacting_once(value: Any) -> None:
    assert redact(redact(value)) == redact(value)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Where the log goes, as JSON at debug level; as it was before, afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    config = structlog.get_config()
    stream = io.StringIO()
    configure_logs(form="json", level="debug", stream=stream)
    yield stream
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_is_json_with_its_level_and_time(written: io.StringIO) -> None:
    with traced("ab" * 16, method="session.ping"):
        log.info("a thing\nhappened", run="r_1", odd={1, 2}, raw=b"\xff", when=object())
    logging.getLogger("some.library").warning("a %s\nline", "two")
    try:
        raise ValueError("a\ntraceback")
    except ValueError:
        log.exception("it failed")
        logging.getLogger("some.library").exception("it failed as well")
    first, second, third, fourth = _lines(written)
    assert (first["event"], first["level"], first["method"]) == (
        "a thing\nhappened",
        "info",
        "session.ping",
    )
    assert first["trace_id"] == "ab" * 16
    assert second["event"] == "a two\nline"
    assert "trace_id" not in second
    for line in (third, fourth):
        assert "ValueError: a\ntraceback" in line["exception"]
    assert all(line["timestamp"].endswith("Z") for line in _lines(written))


def test_the_secrets_of_a_librarys_line_are_redacted_too(written: io.StringIO) -> None:
    logging.getLogger("some.library").error("connecting to %s", f"redis://:{SECRET}@host")
    try:
        raise ConnectionError(f"redis://:{SECRET}@host is away")
    except ConnectionError:
        logging.getLogger("some.library").exception("failed")
    assert SECRET not in written.getvalue()
    assert len(_lines(written)) == 2


def test_libraries_that_would_tell_rows_and_frames_are_quiet_even_at_debug(
    written: io.StringIO,
) -> None:
    for name in ("aiosqlite", "asyncio", "httpx", "httpcore", "uvicorn.error", "websockets.server",
                 "sqlalchemy.engine"):  # fmt: skip
        assert not logging.getLogger(name).isEnabledFor(logging.INFO), name


@given(st.text() | st.none())
def test_a_trace_id_is_one_whatever_was_sent(traceparent: str | None) -> None:
    trace_id = trace_id_of(traceparent)
    assert len(trace_id) == 32
    assert int(trace_id, 16)


def test_the_trace_id_of_the_caller_is_kept() -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_id_of(f"00-{trace_id}-00f067aa0ba902b7-01") == trace_id
    for bad in (
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{trace_id}-{'0' * 16}-01",
        f"00-{trace_id.upper()}-00f067aa0ba902b7-01",
        f"00-{trace_id}-00f067aa0ba902b7-01\n",
    ):
        assert trace_id_of(bad) != trace_id  # fmt: skip
