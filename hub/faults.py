"""The one table of what can go wrong, and the exception that carries it.

Everything outsiders see of a failure comes from here: the JSON-RPC error of a WebSocket reply, the
HTTP status and body of REST, the ``code`` of a ``RUN_ERROR`` event, the WebSocket close code, the
reference page and the exception classes of the SDKs.

A ``Fault`` is raised where the cause is known and mapped at one place per transport. Its message
says what to do; it never holds a secret, a path of the server, or a traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A row of the table: ``code`` on the socket, ``reason`` by name, ``http`` status."""

    code: int
    reason: str
    http: int
    retryable: bool
    meaning: str


FAULTS: Final[Mapping[str, FaultKind]] = {
    kind.reason: kind
    for kind in (
        FaultKind(-32700, "parse_error", 400, False, "The frame is not the JSON we accept."),
        FaultKind(-32600, "invalid_request", 400, False, "JSON, but not a request."),
        FaultKind(-32601, "method_not_found", 404, False, "No such method or path."),
        FaultKind(-32602, "invalid_params", 422, False, "A parameter is missing or wrong."),
        FaultKind(-32603, "internal_error", 500, False, "The hub failed; the trace id finds why."),
        FaultKind(4010, "unauthenticated", 401, False, "No credentials, or not valid ones."),
        FaultKind(4011, "token_expired", 401, True, "Refresh the access token, then retry."),
        FaultKind(
            4013, "second_factor_required", 401, False, "The password is right; send a code too."
        ),
        FaultKind(4030, "permission_denied", 403, False, "You may not do this."),
        FaultKind(
            4031,
            "enrolment_required",
            403,
            False,
            "The tenant wants a second factor: enrol or show one.",
        ),
        FaultKind(4040, "not_found", 404, False, "It does not exist, or is not yours to see."),
        FaultKind(4090, "conflict", 409, False, "It clashes with what is there."),
        FaultKind(4091, "conversation_busy", 409, True, "A run is active there now."),
        FaultKind(4100, "resume_gap", 410, False, "The log no longer holds that position."),
        FaultKind(4290, "rate_limited", 429, True, "Too fast; retry after `retry_after_ms`."),
        FaultKind(4291, "quota_exceeded", 429, True, "A quota is used up."),
        FaultKind(5030, "model_unavailable", 503, True, "No model can answer now."),
        FaultKind(5031, "tool_unavailable", 503, True, "The tool cannot be reached now."),
        FaultKind(5032, "backend_unavailable", 503, True, "Database or backplane is away."),
        FaultKind(5040, "timeout", 504, True, "It took too long."),
    )
}
"""Every fault by its reason. The codes and HTTP statuses are part of the wire protocol."""


class Fault(Exception):
    """A failure that the caller is told about, by a reason of ``FAULTS``.

    ``message`` tells the caller what to do. ``details`` are JSON values, sent as they are (for
    example ``{"retry_after_ms": 1200}``). Raises KeyError for a reason that is not in the table.
    """

    def __init__(
        self, reason: str, message: str | None = None, *, details: Mapping[str, Any] | None = None
    ) -> None:
        self.kind = FAULTS[reason]
        self.message = message or self.kind.meaning
        self.details: dict[str, Any] = dict(details or {})
        super().__init__(f"{reason}: {self.message}")

    @property
    def reason(self) -> str:
        return self.kind.reason

    def body(self, trace_id: str | None = None) -> dict[str, Any]:
        """The error object of the wire: ``{code, message, data: {reason, retryable, …}}``."""
        data: dict[str, Any] = {"reason": self.kind.reason, "retryable": self.kind.retryable}
        if self.details:
            data["details"] = self.details
        if trace_id is not None:
            data["trace_id"] = trace_id
        return {"code": self.kind.code, "message": self.message, "data": data}


@dataclass(frozen=True, slots=True)
class CloseKind:
    """Why the hub closes a WebSocket. ``reconnect`` says whether the client should come back."""

    code: int
    reason: str
    meaning: str

    @property
    def reconnect(self) -> bool:
        """4000-4499 ask the client to reconnect with jitter; 4500-4999 tell it not to."""
        return self.code < 4500


CLOSES: Final[Mapping[int, CloseKind]] = {
    kind.code: kind
    for kind in (
        CloseKind(4001, "draining", "The node is going away; reconnect after `retry_after_ms`."),
        CloseKind(4005, "token_expired", "The access token ran out; refresh, then reconnect."),
        CloseKind(4008, "too_slow", "The outbox limit was hit; reconnect and resume."),
        CloseKind(4012, "no_pong", "No pong came in time."),
        CloseKind(4029, "rate_limited", "Too many frames or requests; reconnect more slowly."),
        CloseKind(4500, "invalid_token", "The credentials are not valid."),
        CloseKind(4501, "protocol_violation", "Too many faulty frames."),
        CloseKind(4502, "never_authenticated", "No `session.authenticate` came in time."),
        CloseKind(4503, "session_revoked", "The login session was revoked."),
        CloseKind(4504, "too_many_connections", "A connection limit was hit."),
        CloseKind(4505, "session_replaced", "A newer connection has the persistent session."),
    )
}
"""Every close code the hub sends of its own; RFC 6455's (1003, 1007, 1009 …) come on top."""
