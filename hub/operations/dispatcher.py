"""The dispatcher: looks up, validates, authorises, calls, maps faults; for every transport.

It knows nothing of sockets or HTTP, and nothing of what the operations mean.
"""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from pydantic import ValidationError

from hub.audit.origin import Origin, acting
from hub.faults import Fault
from hub.operations.call import ANONYMOUS, Call
from hub.operations.operation import PUBLIC, SIGNED_IN, AnyOperation, Result, check
from hub.rbac.decision import decide
from hub.telemetry.logs import log

LONG_S: Final = 0.5
"""A read that took longer is authorised again before it is answered."""

DEADLINE_S: Final = 60.0
"""An operation that takes longer is given up, and answered ``timeout``."""


class Dispatcher:
    """Answers calls of the operations it was given.

    Raises TypeError for one that cannot be: what declares no permission does not start.
    """

    def __init__(self, operations: Mapping[str, AnyOperation]) -> None:
        for operation in operations.values():
            check(operation)
        self.operations = operations

    def find(self, name: str) -> AnyOperation:
        """The operation. Raises Fault method_not_found."""
        found = self.operations.get(name)
        if found is None:
            raise Fault("method_not_found", f"There is no method {name[:100]!r}.")
        return found

    async def dispatch(
        self, operation: AnyOperation, params: Mapping[str, Any], call: Call
    ) -> Result:
        """The operation's result. Raises Fault, and nothing else but CancelledError."""
        began = perf_counter()
        reason = "ok"
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._answer(operation, params, call)
        except Fault as fault:
            reason = fault.reason
            raise
        except TimeoutError:
            reason = "timeout"
            raise Fault("timeout") from None
        except asyncio.CancelledError:
            reason = "abandoned"
            raise
        except Exception:
            reason = "internal_error"
            log.exception(
                "an operation failed",
                method=operation.name,
                trace_id=call.trace_id,
                reason=reason,
            )
            raise Fault("internal_error") from None
        finally:
            metrics = call.services.metrics
            metrics.requests.labels(operation.name, call.transport, reason).inc()
            metrics.request_seconds.labels(operation.name).observe(perf_counter() - began)

    async def _answer(
        self, operation: AnyOperation, params: Mapping[str, Any], call: Call
    ) -> Result:
        # Who may not call it at all learns nothing of its parameters.
        await admit(operation, call)
        validated = validate(operation, params)
        await authorise(operation, validated, call)
        began = perf_counter()
        with acting(_origin(call)):
            result: Result = await operation.handler(call, validated)
        # What goes on after its reply is checked again there, when it begins.
        if operation.kind == "read" and not call.after and perf_counter() - began > LONG_S:
            await authenticate(operation, call)
            await authorise(operation, validated, call)
        return result


def _origin(call: Call) -> Origin:
    actor = call.actor
    return Origin(
        actor_id=actor.user_id or None,
        session_id=actor.session_id or None,
        transport=call.transport,
        address=call.address,
        trace_id=call.trace_id,
    )


async def admit(operation: AnyOperation, call: Call) -> None:
    """Let the call in: give it its actor, and take its cost of the budgets of who makes it.

    Raises Fault as ``authenticate`` does, and rate_limited.
    """
    rates = call.services.rates
    await rates.spend_address(operation.cost, call.address)
    await authenticate(operation, call)
    if call.actor is not ANONYMOUS:
        await rates.spend(operation.cost, call.actor)


async def authenticate(operation: AnyOperation, call: Call) -> None:
    """Give the call its actor, with the permissions of this moment.

    Raises Fault unauthenticated, permission_denied.
    """
    if operation.permission == PUBLIC:
        return
    if call.claims is None:
        raise Fault("unauthenticated", "Send an access token: `Authorization: Bearer …`.")
    call.actor = await call.services.authority.actor(call.claims)
    if call.actor is ANONYMOUS:
        raise Fault("unauthenticated")
    call.services.sightings.seen(call.actor.session_id)


def validate(operation: AnyOperation, params: Mapping[str, Any]) -> Any:
    """The params model. Raises Fault invalid_params, which names each field but not its value."""
    try:
        return operation.params.model_validate(params)
    except ValidationError as error:
        problems = [
            {"field": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        first = problems[0]
        raise Fault(
            "invalid_params",
            f"{first['field'] or 'params'}: {first['problem']}",
            details={"problems": problems[:20]},
        ) from None


async def authorise(operation: AnyOperation, params: Any, call: Call) -> None:
    """Ask ``rbac``. Raises Fault permission_denied, not_found."""
    if operation.permission in (PUBLIC, SIGNED_IN):
        return
    resource = None
    if operation.guards is not None:
        kind, parameter = operation.guards
        if operation.permission not in call.actor.permissions:
            # Without the permission nothing is looked up, and nothing can be probed.
            resource = None
        else:
            resource = await call.services.resources.find(
                kind, getattr(params, parameter), call.actor
            )
    verdict = decide(call.actor, operation.permission, resource)
    if not verdict.allowed:
        raise Fault(verdict.fault)
