"""Everything the SDK raises. Generated from the hub's fault table; do not edit.

::

    HubError
    ├── Fault                 what the hub answered, one class per reason
    │   ├── ParseError           -32700
    │   ├── InvalidRequest       -32600
    │   ├── MethodNotFound       -32601
    │   ├── InvalidParams        -32602
    │   ├── InternalError        -32603
    │   ├── Unauthenticated        4010
    │   ├── TokenExpired           4011 (may be retried)
    │   ├── SecondFactorRequired   4013
    │   ├── PermissionDenied       4030
    │   ├── EnrolmentRequired      4031
    │   ├── NotFound               4040
    │   ├── Conflict               4090
    │   ├── ConversationBusy       4091 (may be retried)
    │   ├── ResumeGap              4100
    │   ├── RateLimited            4290 (may be retried)
    │   ├── QuotaExceeded          4291 (may be retried)
    │   ├── ModelUnavailable       5030 (may be retried)
    │   ├── ToolUnavailable        5031 (may be retried)
    │   ├── BackendUnavailable     5032 (may be retried)
    │   ├── Timeout                5040 (may be retried)
    ├── ConnectFailed         no connection could be made
    ├── ConnectionClosed      the connection ended for good; the close code says why
    │   └── ConnectionLost    a request was sent, its answer never came, and repeating it is unsafe
    ├── CallTimedOut          no answer in time (also a TimeoutError)
    ├── SubscriptionEnded     the hub ended a subscription
    ├── SubscriberTooSlow     a subscriber's buffer overflowed; subscribe again from `position`
    └── BadFrame              the peer sent something that is not the protocol
"""

import json
from collections.abc import Mapping
from typing import Any, Final


class HubError(Exception):
    """The root of everything that the SDK raises of its own."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""


class Fault(HubError):
    """A failure that the hub answered with. The subclasses name the reasons that are known here;
    a reason that a newer hub invents arrives as a plain ``Fault`` that carries it.

    ``details`` are JSON values; ``trace_id`` finds the failure in the hub's logs.
    """

    code: int = 0
    reason: str = "unknown"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = dict(details or {})
        self.trace_id = trace_id

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before trying again, when the hub said so."""
        value = self.details.get("retry_after_ms")
        return value / 1000 if isinstance(value, int | float) else None

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


class ParseError(Fault):
    """The frame is not the JSON we accept."""

    code = -32700
    reason = "parse_error"
    retryable = False


class InvalidRequest(Fault):
    """JSON, but not a request."""

    code = -32600
    reason = "invalid_request"
    retryable = False


class MethodNotFound(Fault):
    """No such method or path."""

    code = -32601
    reason = "method_not_found"
    retryable = False


class InvalidParams(Fault):
    """A parameter is missing or wrong."""

    code = -32602
    reason = "invalid_params"
    retryable = False


class InternalError(Fault):
    """The hub failed; the trace id finds why."""

    code = -32603
    reason = "internal_error"
    retryable = False


class Unauthenticated(Fault):
    """No credentials, or not valid ones."""

    code = 4010
    reason = "unauthenticated"
    retryable = False


class TokenExpired(Fault):
    """Refresh the access token, then retry."""

    code = 4011
    reason = "token_expired"
    retryable = True


class SecondFactorRequired(Fault):
    """The password is right; send a code too."""

    code = 4013
    reason = "second_factor_required"
    retryable = False


class PermissionDenied(Fault):
    """You may not do this."""

    code = 4030
    reason = "permission_denied"
    retryable = False


class EnrolmentRequired(Fault):
    """The tenant wants a second factor: enrol or show one."""

    code = 4031
    reason = "enrolment_required"
    retryable = False


class NotFound(Fault):
    """It does not exist, or is not yours to see."""

    code = 4040
    reason = "not_found"
    retryable = False


class Conflict(Fault):
    """It clashes with what is there."""

    code = 4090
    reason = "conflict"
    retryable = False


class ConversationBusy(Fault):
    """A run is active there now."""

    code = 4091
    reason = "conversation_busy"
    retryable = True


class ResumeGap(Fault):
    """The log no longer holds that position."""

    code = 4100
    reason = "resume_gap"
    retryable = False


class RateLimited(Fault):
    """Too fast; retry after `retry_after_ms`."""

    code = 4290
    reason = "rate_limited"
    retryable = True


class QuotaExceeded(Fault):
    """A quota is used up."""

    code = 4291
    reason = "quota_exceeded"
    retryable = True


class ModelUnavailable(Fault):
    """No model can answer now."""

    code = 5030
    reason = "model_unavailable"
    retryable = True


class ToolUnavailable(Fault):
    """The tool cannot be reached now."""

    code = 5031
    reason = "tool_unavailable"
    retryable = True


class BackendUnavailable(Fault):
    """Database or backplane is away."""

    code = 5032
    reason = "backend_unavailable"
    retryable = True


class Timeout(Fault):
    """It took too long."""

    code = 5040
    reason = "timeout"
    retryable = True


FAULTS: Final[Mapping[str, type[Fault]]] = {
    kind.reason: kind
    for kind in (
        ParseError,
        InvalidRequest,
        MethodNotFound,
        InvalidParams,
        InternalError,
        Unauthenticated,
        TokenExpired,
        SecondFactorRequired,
        PermissionDenied,
        EnrolmentRequired,
        NotFound,
        Conflict,
        ConversationBusy,
        ResumeGap,
        RateLimited,
        QuotaExceeded,
        ModelUnavailable,
        ToolUnavailable,
        BackendUnavailable,
        Timeout,
    )
}
"""The exception class of each reason."""

CLOSES: Final[Mapping[int, tuple[str, str]]] = {
    4001: ("draining", "The node is going away; reconnect after `retry_after_ms`."),
    4005: ("token_expired", "The access token ran out; refresh, then reconnect."),
    4008: ("too_slow", "The outbox limit was hit; reconnect and resume."),
    4012: ("no_pong", "No pong came in time."),
    4029: ("rate_limited", "Too many frames or requests; reconnect more slowly."),
    4500: ("invalid_token", "The credentials are not valid."),
    4501: ("protocol_violation", "Too many faulty frames."),
    4502: ("never_authenticated", "No `session.authenticate` came in time."),
    4503: ("session_revoked", "The login session was revoked."),
    4504: ("too_many_connections", "A connection limit was hit."),
    4505: ("session_replaced", "A newer connection has the persistent session."),
}
"""What the hub's own close codes mean: ``(reason, meaning)``."""


def fault_from(error: Mapping[str, Any]) -> Fault:
    """The exception for an error object of the wire, ``{code, message, data: {reason, …}}``."""
    data = error.get("data")
    known: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    reason, code, details = known.get("reason"), error.get("code"), known.get("details")
    kind = FAULTS.get(reason) if isinstance(reason, str) else None
    if kind is None and reason is None:
        kind = next((each for each in FAULTS.values() if each.code == code), None)
    fault = (kind or Fault)(
        str(error.get("message") or (kind or Fault).__doc__),
        details=details if isinstance(details, Mapping) else None,
        trace_id=known.get("trace_id"),
    )
    if kind is None:
        fault.code = code if isinstance(code, int) else 0
        fault.reason = str(reason or "unknown")
        fault.retryable = known.get("retryable") is True
    return fault


def fault_of(reason: str, message: str | None = None) -> Fault:
    """The exception for a reason alone (the ``code`` of a ``RUN_ERROR`` event)."""
    return fault_from({"message": message, "data": {"reason": reason}})


class ConnectFailed(HubError):
    """No connection could be made. ``status`` is the HTTP status, when one came."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ConnectionClosed(HubError):
    """The connection ended. ``code`` is the WebSocket close code (1006: without one), ``reason``
    its name (the hub sends ``{"reason", "retry_after_ms"?}``, others send text), ``retry_after``
    the seconds that the hub asks to wait.
    """

    def __init__(self, code: int, reason: str = "", message: str | None = None) -> None:
        name, meaning = CLOSES.get(code, ("", ""))
        told = _told(reason)
        self.code = code
        self.reason = str(told.get("reason") or name or reason)
        wait = told.get("retry_after_ms")
        self.retry_after = max(wait / 1000, 0.0) if isinstance(wait, int | float) else 0.0
        super().__init__(message or meaning or f"The connection was closed ({code} {self.reason})")

    @property
    def reconnect(self) -> bool:
        """Whether the hub lets the client come back: 4500 and above say no."""
        return self.code < 4500


class ConnectionLost(ConnectionClosed):
    """The connection broke after a request was sent and before its answer came. Whether the hub
    acted on it is unknown, and it is not safe to repeat without looking.
    """


def _told(reason: str) -> Mapping[str, Any]:
    try:
        told = json.loads(reason)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class CallTimedOut(HubError, TimeoutError):
    """No answer came in time. The hub may still act on the request."""


class SubscriptionEnded(HubError):
    """The hub ended the subscription of ``channel`` for ``reason``."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(f"The hub ended the subscription of {channel}: {reason}")
        self.channel = channel
        self.reason = reason


class SubscriberTooSlow(HubError):
    """The subscriber took events more slowly than they came and its buffer is full. Everything
    up to ``(epoch, seq)`` was yielded; subscribe again with ``since=(epoch, seq)`` to go on.
    """

    def __init__(self, channel: str, epoch: str, seq: int) -> None:
        super().__init__(f"The subscriber of {channel} is too slow; it has events up to {seq}")
        self.channel = channel
        self.position = (epoch, seq)


class BadFrame(HubError):
    """The peer sent something that is not the protocol, or a request is too large to send."""
