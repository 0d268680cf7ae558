"""Second factors: enrol an authenticator, do without, and who must have one."""

from datetime import datetime

from pydantic import Field, SecretStr

from hub.operations.call import Call
from hub.operations.operation import (
    SIGNED_IN,
    Done,
    Http,
    Nothing,
    Params,
    Result,
    operation,
)
from hub.operations.shapes import Id, Text


class Code(Params):
    code: SecretStr = Field(
        max_length=40, description="Six digits of the authenticator, or a recovery code."
    )


class FirstCode(Params):
    code: SecretStr = Field(max_length=40, description="Six digits of the authenticator.")


class Disable(Code):
    password: SecretStr | None = Field(
        None, max_length=1_024, description="Yours; who has none leaves it out."
    )


class Reset(Params):
    user_id: Id


class Require(Params):
    role: Text | None = Field(
        None, max_length=64, description="This role and all above it; none: nobody must."
    )


class FactorState(Result):
    enrolled_at: datetime | None = Field(None, description="Absent: there is none in force.")
    recovery_codes_left: int
    required: bool = Field(
        description="Whether you must have shown one in this session and have not, and may do no "
        "more: `factor.prove` if you have one, else `factor.enrol`."
    )


class Enrolment(Result):
    secret: str = Field(description="Base 32, for the authenticator; shown this once.")
    uri: str = Field(description="`otpauth://…`: the same, to be shown as a QR code.")


class RecoveryCodes(Result):
    recovery_codes: list[str] = Field(description="Each works once; shown this once.")


class Policy(Result):
    rank: int | None = Field(
        None, description="Whoever has a role of this rank or above must have a second factor."
    )


@operation(
    "factor.get",
    permission=SIGNED_IN,
    kind="read",
    http=Http("GET", "/v1/factor"),
    while_enrolling=True,
)
async def get(call: Call, params: Nothing) -> FactorState:
    """Your second factor."""
    state = await call.services.factors.state(call.actor.user_id)
    return FactorState(
        enrolled_at=state.confirmed_at,
        recovery_codes_left=state.recovery_codes_left,
        required=call.actor.must_enrol,
    )


@operation(
    "factor.enrol",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/factor/enrol"),
    faults=("conflict",),
    while_enrolling=True,
    shown_once=True,
)
async def enrol(call: Call, params: Nothing) -> Enrolment:
    """Begin to enrol an authenticator: its secret.

    It is in force once `factor.confirm` has had a code of it. Another `factor.enrol` before that
    gives another secret.
    """
    enrolment = await call.services.factors.enrol(call.actor.user_id, call.actor.tenant_id)
    return Enrolment.model_validate(enrolment, from_attributes=True)


@operation(
    "factor.confirm",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/factor/confirm"),
    faults=("conflict", "permission_denied"),
    while_enrolling=True,
    shown_once=True,
)
async def confirm(call: Call, params: FirstCode) -> RecoveryCodes:
    """Put the authenticator into force by its first code; ten recovery codes.

    This session has shown it then, and others have not: see `factor.require`.
    """
    actor = call.actor
    codes = await call.services.factors.confirm(
        actor.user_id, actor.tenant_id, params.code.get_secret_value(), actor.session_id
    )
    return RecoveryCodes(recovery_codes=codes)


@operation(
    "factor.prove",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/factor/prove"),
    faults=("conflict", "permission_denied", "rate_limited"),
    while_enrolling=True,
)
async def prove(call: Call, params: Code) -> Done:
    """Show your second factor in this session, which began without it.

    The tenant may have come to demand one since, or you have enrolled it in another session.
    """
    actor = call.actor
    await call.services.factors.prove(
        actor.user_id, actor.tenant_id, actor.session_id, params.code.get_secret_value()
    )
    return Done()


@operation(
    "factor.renew",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/factor/renew"),
    faults=("conflict", "permission_denied", "rate_limited"),
    shown_once=True,
)
async def renew(call: Call, params: Code) -> RecoveryCodes:
    """Ten new recovery codes; the old ones are void."""
    actor = call.actor
    codes = await call.services.factors.renew(
        actor.user_id, actor.tenant_id, params.code.get_secret_value()
    )
    return RecoveryCodes(recovery_codes=codes)


@operation(
    "factor.disable",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/factor/disable"),
    cost=20,
    faults=("conflict", "permission_denied", "rate_limited"),
)
async def disable(call: Call, params: Disable) -> Done:
    """Do without a second factor from now on. It takes the password and a code."""
    actor = call.actor
    password = params.password.get_secret_value() if params.password is not None else None
    await call.services.factors.disable(
        actor.user_id, actor.tenant_id, password, params.code.get_secret_value()
    )
    return Done()


@operation(
    "factor.reset",
    permission="factor:reset",
    kind="write",
    http=Http("POST", "/v1/users/{user_id}/factor/reset"),
    guards=("user", "user_id"),
    cost=5,
    faults=("not_found", "permission_denied", "conflict", "rate_limited"),
)
async def reset(call: Call, params: Reset) -> Done:
    """Have a letter sent to a user by which they do without a second factor that is lost.

    Whoever reads it decides (`account.reset_factor`): the factor guards all the tenants that they
    are in. The answer is the same, after the same time, and the letter is sent, whether they are in
    others or not, and have a second factor or not. Who ranks above you is `permission_denied`;
    yourself, and a service account, is a `conflict`; where it is `rate_limited` no letter was sent.
    The hub's operator takes it away at once (`hub user reset-factor`).
    """
    actor = call.actor
    await call.services.recovery.help("factor", actor.tenant_id, actor, params.user_id)
    return Done()


@operation(
    "factor.policy",
    permission="factor:require",
    kind="read",
    http=Http("GET", "/v1/factor/policy"),
    faults=("permission_denied",),
)
async def policy(call: Call, params: Nothing) -> Policy:
    """Who must have a second factor in the tenant."""
    return Policy(rank=await call.services.factor_rules.demanded(call.actor.tenant_id))


@operation(
    "factor.require",
    permission="factor:require",
    kind="write",
    http=Http("POST", "/v1/factor/policy"),
    faults=("permission_denied", "not_found"),
)
async def require(call: Call, params: Require) -> Policy:
    """Say who must have a second factor in the tenant: a role, and all above it.

    Whoever must, in a session that has not shown one, can do nothing but enrol one, or show the one
    that they have (`factor.prove`), from this moment on, and from the moment on at which they get
    such a role: everything else is answered `enrolment_required`, and subscriptions end so.
    """
    rank = await call.services.factor_rules.demand(call.actor.tenant_id, call.actor, params.role)
    return Policy(rank=rank)
