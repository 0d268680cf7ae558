"""Writes ``hub_client/faults.py`` from the hub's fault table: ``python generate_faults.py``.

Needs the hub's source beside it; the SDK itself does not. Without ``--check`` the file is written;
with it, a difference is printed and the exit status is 1.
"""

import sys
from pathlib import Path

from hub.faults import CLOSES, FAULTS, CloseKind, FaultKind

TARGET = Path(__file__).parent / "hub_client" / "faults.py"


def class_name(reason: str) -> str:
    """``permission_denied`` → ``PermissionDenied``."""
    return "".join(word.capitalize() for word in reason.split("_"))


def generate() -> str:
    """The text of ``faults.py``."""
    kinds = list(FAULTS.values())
    text = _TEMPLATE
    text = text.replace("@TREE@", "\n".join(_branch(kind) for kind in kinds))
    text = text.replace("@CLASSES@", "\n\n".join(_fault_class(kind) for kind in kinds))
    text = text.replace("@BY_REASON@", _tuple(kinds))
    return text.replace("@CLOSES@", "\n".join(_close(kind) for kind in CLOSES.values()))


def _branch(kind: FaultKind) -> str:
    mark = " (may be retried)" if kind.retryable else ""
    return f"    │   ├── {class_name(kind.reason):<20} {kind.code:>6}{mark}"


def _fault_class(kind: FaultKind) -> str:
    return (
        f"class {class_name(kind.reason)}(Fault):\n"
        f'    """{kind.meaning}"""\n\n'
        f"    code = {kind.code}\n"
        f'    reason = "{kind.reason}"\n'
        f"    retryable = {kind.retryable}\n"
    )


def _tuple(kinds: list[FaultKind]) -> str:
    return "\n".join(f"        {class_name(kind.reason)}," for kind in kinds)


def _close(kind: CloseKind) -> str:
    return f'    {kind.code}: ("{kind.reason}", "{kind.meaning}"),'


_TEMPLATE = '''"""Everything the SDK raises. Generated from the hub's fault table; do not edit.

::

    HubError
    ├── Fault                 what the hub answered, one class per reason
@TREE@
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


@CLASSES@

FAULTS: Final[Mapping[str, type[Fault]]] = {
    kind.reason: kind
    for kind in (
@BY_REASON@
    )
}
"""The exception class of each reason."""

CLOSES: Final[Mapping[int, tuple[str, str]]] = {
@CLOSES@
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
'''


def main(arguments: list[str]) -> int:
    text = generate()
    if "--check" in arguments:
        same = TARGET.read_text(encoding="utf-8") == text
        if not same:
            print(f"{TARGET} is not what generate_faults.py makes; run it")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
