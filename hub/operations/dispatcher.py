"""The dispatcher: looks up, validates, authorises, calls, maps faults; for every transport.

It knows nothing of sockets or HTTP, and nothing of what the operations mean.
"""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from pydantic import ValidationError

from hub.audit.origin import Deed, Origin, acting, watched
from hub.audit.refusal import Refusal
from hub.faults import Fault
from hub.identity.access.refusal import NotAdmitted
from hub.operations.call import ANONYMOUS, Call
from hub.operations.operation import PUBLIC, SIGNED_IN, AnyOperation, Result, check
from hub.rbac.decision import decide
from hub.rbac.permissions import holds
from hub.telemetry.logs import log

LONG_S: Final = 0.5
"""A read that took longer is authorised again before it is answered."""

DEADLINE_S: Final = 60.0
"""An operation that takes longer is given up, and answered ``timeout``."""

_DENIED: Final = frozenset({"permission_denied", "not_found"})
_FAILED: Final = frozenset({"unauthenticated", "permission_denied", "rate_limited"})
"""Why somebody was refused: who is known, and who shows who they are."""


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
            note_refusal(operation, params, call, fault)
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
        with acting(origin_of(call)), watched() as deed:
            result: Result = await operation.handler(call, validated)
        if operation.audited and operation.kind == "write":
            _check_entry(operation, call, deed)
        # What goes on after its reply is checked again there, when it begins.
        if operation.kind == "read" and not call.after and perf_counter() - began > LONG_S:
            await authenticate(operation, call)
            await authorise(operation, validated, call)
        return result


def origin_of(call: Call) -> Origin:
    """Where what the call does comes from, once it has its actor."""
    actor = call.actor
    return Origin(
        actor_id=actor.user_id or None,
        session_id=actor.session_id or None,
        tenant_id=actor.tenant_id or None,
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


def _check_entry(operation: AnyOperation, call: Call, deed: Deed) -> None:
    """Say so when a deed has left no entry: its declaration promises one."""
    if deed.wrote and not deed.recorded:
        call.services.metrics.audit_missing.labels(operation.name).inc()
        log.error("an operation has left no audit entry", method=operation.name)


def note_refusal(
    operation: AnyOperation, params: Mapping[str, Any], call: Call, fault: Fault
) -> None:
    """Note who was refused an operation, or failed to sign in by it.

    ``not_found`` of what is guarded is a refusal, whatever it was: the trail does not tell what is
    nowhere from what is another tenant's, and shows who tries one name after the other.
    """
    public = operation.permission == PUBLIC
    if fault.reason not in (_FAILED if public else _DENIED):
        return
    if not public and not call.actor.tenant_id:
        return  # nobody: without credentials nothing is learnt, and nothing tried
    resource = None
    if operation.guards is not None:
        kind, parameter = operation.guards
        resource = (kind, str(params.get(parameter, ""))[:200])
    of_note = resource is not None and resource[1] in operation.noted_of
    everyday = not operation.audited and not of_note
    if everyday and (public or (fault.reason == "not_found" and resource is None)):
        return
    email, tenant = params.get("email"), params.get("tenant")
    tenant_id = None if public else call.actor.tenant_id
    if isinstance(fault, NotAdmitted):  # by the second factor: there is no address then
        tenant_id = fault.tenant_id
        resource = ("user", fault.user_id) if fault.user_id is not None else None
    refusal = Refusal(
        action=operation.name,
        outcome="failed" if fault.reason == "unauthenticated" else "denied",
        reason=fault.reason,
        origin=origin_of(call),
        tenant_id=tenant_id,
        resource=resource,
        email=email if public and isinstance(email, str) else None,
        tenant=tenant if public and isinstance(tenant, str) else None,
        everyday=everyday,
    )
    call.services.audit.denials.note(refusal)


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
    if call.claims.holder is not None:
        call.services.key_use.note(call.claims.session_id, call.actor.tenant_id)
    else:
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
    """Ask ``rbac``. Raises Fault permission_denied, not_found, enrolment_required."""
    if operation.permission == PUBLIC:
        return
    if call.actor.must_enrol and not operation.while_enrolling:
        raise Fault("enrolment_required")
    if operation.permission == SIGNED_IN:
        if call.claims is not None and call.claims.holder is not None and not operation.by_key:
            raise Fault("permission_denied", "No API key may do this; sign in as yourself.")
        return
    resource = None
    # Without the permission nothing is looked up, and nothing can be probed.
    if operation.guards is not None and holds(call.actor.permissions, operation.permission):
        kind, parameter = operation.guards
        identifier = getattr(params, parameter) if parameter else kind
        if identifier is not None:  # it may be left out where one's own is meant
            resource = await call.services.resources.find(kind, identifier, call.actor)
    verdict = decide(call.actor, operation.permission, resource)
    if not verdict.allowed:
        raise Fault(verdict.fault)
