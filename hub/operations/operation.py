"""The declaration of an operation: name, models, permission, HTTP mapping, read or write.

WebSocket methods, REST routes, OpenAPI, AsyncAPI and the reference page are derived from these.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict

from hub.faults import FAULTS
from hub.operations.call import Call
from hub.rbac.permissions import PERMISSIONS

P = TypeVar("P", bound="Params")
R = TypeVar("R", bound="Result")

PUBLIC: Final = "public"
"""The permission of an operation that needs no credentials."""

SIGNED_IN: Final = "signed-in"
"""The permission of an operation on one's own account or session: any valid credentials will do,
but for API keys, unless it is declared ``by_key``: they may do what their scopes say.
"""

Kind = Literal["read", "write"]


class Params(BaseModel):
    """Parameters of an operation. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """A result. Optional fields are left out, never null."""

    model_config = ConfigDict(frozen=True)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


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
    may answer beyond those that any operation may.
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
    summary: str
    description: str

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
) -> Callable[[Callable[[Call, P], Awaitable[R]]], Operation[P, R]]:
    """Declare the decorated handler as the operation ``name`` (``noun.verb``).

    Its annotations give the params and result models, its docstring the summary (first line) and
    the description. Raises TypeError at once for a declaration that cannot be.
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
            summary=summary.strip().rstrip("."),
            description=description.strip(),
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
    if declared.permission not in (PUBLIC, SIGNED_IN) and declared.permission not in PERMISSIONS:
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
