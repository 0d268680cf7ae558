"""The declaration of an operation: name, models, permission, HTTP mapping, read or write.

WebSocket methods, REST routes, OpenAPI, AsyncAPI and the reference page are derived from these.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, PrivateAttr

from hub.faults import FAULTS
from hub.operations.call import Call
from hub.rbac.permissions import declaration

P = TypeVar("P", bound="Params")
R = TypeVar("R", bound="Result")

PUBLIC: Final = "public"
"""The permission of an operation that needs no credentials."""

SIGNED_IN: Final = "signed-in"
"""The permission of an operation on one's own account or session: any valid credentials will do,
but for API keys, unless it is declared ``by_key``: they may do what their scopes say.
"""

Kind = Literal["read", "write"]

EVERYDAY: Final = frozenset({"channel", "presence", "conversation", "message", "run", "model"})
"""The families whose writes are everyone's daily work. Those of all others are about who may come
in and do what, and are in the audit trail."""

GRAVE: Final = frozenset({"delete", "share", "unshare", "grant", "revoke", "remove"})
"""What is in the audit trail in any family."""


def sensitive(name: str, kind: Kind) -> bool:
    """Whether an operation of this name is in the audit trail, unless its declaration says."""
    family, _, verb = name.partition(".")
    return kind == "write" and (family not in EVERYDAY or verb in GRAVE)


class Params(BaseModel):
    """Parameters of an operation. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """A result. Optional fields are left out, never null."""

    model_config = ConfigDict(frozen=True)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class Streamed(Result):
    """A result that is sent while it is made, over HTTP alone: a body of one of the types
    ``media``, in chunks. ``name`` is what a browser calls the file.
    """

    media: ClassVar[tuple[str, ...]] = ()
    _media_type: str = PrivateAttr()
    _name: str = PrivateAttr()
    _chunks: AsyncIterator[bytes] = PrivateAttr()

    @classmethod
    def of(cls, media_type: str, name: str, chunks: AsyncIterator[bytes]) -> Self:
        made = cls()
        made._media_type, made._name, made._chunks = media_type, name, chunks
        return made

    @property
    def media_type(self) -> str:
        return self._media_type

    @property
    def name(self) -> str:
        return self._name

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        return self._chunks


class Nothing(Params):
    """No parameters."""


class Done(Result):
    """It is done; there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Http:
    """Where REST offers the operation: ``path`` with ``{parameters}`` of the params model."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    status: int = 200

    @property
    def path_parameters(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))


@dataclass(frozen=True, slots=True)
class Operation(Generic[P, R]):
    """A declared operation.

    ``guards`` names the parameter that holds the id of what is acted on, as ``(kind, parameter)``;
    the dispatcher finds its owner and tenant and asks ``rbac``. Of what there is one of (the
    ``hub``), the parameter is empty. ``ordered_by`` names the parameter by which writes of one
    connection keep their order. ``cost`` is what it takes of the caller's budgets of requests
    (``hub.limits.rates``). ``by_key``: an API key will do where the permission is ``SIGNED_IN``.
    ``shown_once``: the result holds a secret, and is kept nowhere. ``faults`` are the reasons it
    may answer beyond those that any operation may. ``audited``: a write of it leaves an entry in
    the audit trail, in its own transaction (``hub.audit.trail.record``); and who is refused it is
    noted before who is refused what is not. ``noted_of``: ids of what it ``guards``, of which who
    is refused it is noted as if it were ``audited``. ``while_enrolling``: who must first enrol a
    second factor may do it.
    """

    name: str
    handler: Callable[[Call, P], Awaitable[R]]
    params: type[P]
    result: type[R]
    permission: str
    kind: Kind
    http: Http | None
    socket: bool
    guards: tuple[str, str] | None
    ordered_by: str | None
    cost: float
    by_key: bool
    shown_once: bool
    faults: tuple[str, ...]
    audited: bool
    summary: str
    description: str
    noted_of: tuple[str, ...] = ()
    while_enrolling: bool = False

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]


AnyOperation = Operation[Any, Any]


def operation(
    name: str,
    *,
    permission: str,
    kind: Kind,
    http: Http | None = None,
    socket: bool = True,
    guards: tuple[str, str] | None = None,
    ordered_by: str | None = None,
    cost: float = 1.0,
    by_key: bool = False,
    shown_once: bool = False,
    faults: tuple[str, ...] = (),
    audited: bool | None = None,
    noted_of: tuple[str, ...] = (),
    while_enrolling: bool = False,
) -> Callable[[Callable[[Call, P], Awaitable[R]]], Operation[P, R]]:
    """Declare the decorated handler as the operation ``name`` (``noun.verb``).

    Its annotations give the params and result models, its docstring the summary (first line) and
    the description. ``audited``: by default if it is ``sensitive``. Raises TypeError at once for a
    declaration that cannot be.
    """

    def declare(handler: Callable[[Call, P], Awaitable[R]]) -> Operation[P, R]:
        hints = get_type_hints(handler)
        params, result = hints["params"], hints["return"]
        text = inspect.cleandoc(handler.__doc__ or "")
        summary, _, description = text.partition("\n")
        declared = Operation(
            name=name,
            handler=handler,
            params=params,
            result=result,
            permission=permission,
            kind=kind,
            http=http,
            socket=socket,
            guards=guards,
            ordered_by=ordered_by,
            cost=cost,
            by_key=by_key,
            shown_once=shown_once,
            faults=faults,
            audited=sensitive(name, kind) if audited is None else audited,
            summary=summary.strip().rstrip("."),
            description=description.strip(),
            noted_of=noted_of,
            while_enrolling=while_enrolling,
        )
        check(declared)
        return declared

    return declare


def check(declared: AnyOperation) -> None:
    """Raise TypeError for a declaration that cannot be: one without a permission, for instance."""

    def refuse(why: str) -> None:
        raise TypeError(f"operation {declared.name}: {why}")

    if not declared.summary:
        refuse("its handler has no docstring")
    if not declared.permission:
        refuse("it declares no permission")
    if declared.permission not in (PUBLIC, SIGNED_IN) and declaration(declared.permission) is None:
        refuse(f"there is no permission {declared.permission!r}")
    if unknown := set(declared.faults) - set(FAULTS):
        refuse(f"no such faults: {unknown}")
    fields = set(declared.params.model_fields)
    named = set(declared.http.path_parameters if declared.http else ())
    named |= {declared.guards[1]} if declared.guards and declared.guards[1] else set()
    named |= {declared.ordered_by} if declared.ordered_by else set()
    if named - fields:
        refuse(f"no such parameters: {named - fields}")
    if declared.http is None and not declared.socket:
        refuse("no transport offers it")
    if issubclass(declared.result, Streamed) and (
        declared.socket or declared.http is None or declared.http.method != "GET"
    ):
        refuse("a stream is offered as a GET over HTTP, and nowhere else")
