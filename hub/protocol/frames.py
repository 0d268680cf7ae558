"""The frames of JSON-RPC 2.0, as values. ``codec`` reads and writes them."""

from typing import Any

import msgspec

from hub.faults import Fault

RequestId = int | str
"""A string, or an integer of at most 64 bits; never null, true or a fraction."""


class Request(msgspec.Struct, frozen=True):
    """Asks for ``method``; the answer carries the same ``id``. A left out ``params`` is ``{}``."""

    id: RequestId
    method: str
    params: dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """The answer to the request ``id``."""

    id: RequestId
    result: Any


class ErrorReply(msgspec.Struct, frozen=True):
    """The refusal of the request ``id``, or, when ``id`` is None, of a frame whose id could not be
    read. ``error`` is ``{code, message}`` and often ``data``.
    """

    id: RequestId | None
    error: dict[str, Any]


class Notification(msgspec.Struct, frozen=True):
    """Asks for nothing and is never answered: an event, a session notice."""

    method: str
    params: dict[str, Any]


Frame = Request | Reply | ErrorReply | Notification


class FrameFault(Fault):
    """The peer sent what is not a frame: ``parse_error`` or ``invalid_request``.

    ``request_id`` is the id of the request it was meant to be, for the error reply to carry, and
    None where there is none, or none that can be told for sure.
    """

    def __init__(self, reason: str, message: str, request_id: RequestId | None = None) -> None:
        super().__init__(reason, message)
        self.request_id = request_id
