"""Accounts: register, sign in, refresh, sign out."""

from typing import Annotated

from pydantic import EmailStr, Field, SecretStr, StrictBool

from hub.faults import Fault
from hub.identity.providers.redirects import PATH
from hub.identity.sessions.login_sessions import TokenPair
from hub.operations.call import Call
from hub.operations.operation import (
    PUBLIC,
    SIGNED_IN,
    Done,
    Http,
    Nothing,
    Params,
    Result,
    operation,
)
from hub.operations.shapes import Id, NewPassword, Text


class Register(Params):
    email: EmailStr = Field(max_length=320)
    password: NewPassword
    name: Text | None = Field(None, min_length=1, max_length=200)
    invitation: str | None = Field(
        None, max_length=200, description="Joins the tenant that invited you."
    )


class UserShape(Result):
    id: Id
    email: str
    name: str | None = None


class TenantShape(Result):
    id: Id
    name: str


class Registered(Result):
    user: UserShape
    tenant: TenantShape


Cookie = Annotated[
    bool,
    Field(
        description="Give the refresh token as a cookie alone, which no script can read. For "
        "browsers."
    ),
]

Invitation = Annotated[
    SecretStr | None,
    Field(
        max_length=200,
        description="The code of one that is accepted by this: its tenant is joined and entered.",
    ),
]


class Login(Params):
    email: str = Field(max_length=320)
    password: SecretStr = Field(max_length=1_024)
    tenant: Text | None = Field(
        None, max_length=200, description="Id or name, for a member of several."
    )
    invitation: Invitation = None
    cookie: Cookie = False


class Redeem(Params):
    code: SecretStr = Field(max_length=200, description="The code of a one-time login link.")
    cookie: Cookie = False


class SecondFactor(Params):
    challenge: SecretStr = Field(
        max_length=200, description="`details.challenge` of the fault `second_factor_required`."
    )
    code: SecretStr = Field(
        max_length=40, description="Six digits of the authenticator, or a recovery code."
    )
    invitation: Invitation = None
    cookie: Cookie = False


class Refresh(Params):
    refresh_token: SecretStr | None = Field(
        None, max_length=8_192, description="Default: that of the cookie, and the next one as well."
    )


class Logout(Params):
    everywhere: StrictBool = Field(
        False, description="End all of your login sessions, in every tenant, not just this one."
    )
    keys: StrictBool = Field(
        False,
        description="With `everywhere`: revoke all of your API keys too, in every tenant.",
    )


class Session(Result):
    """Tokens of a login session. Send the access token as ``Authorization: Bearer …``."""

    access_token: str
    refresh_token: str | None = Field(
        None,
        description="Single use: each refresh gives the next one. Absent where it is a cookie.",
    )
    token_type: str = "bearer"  # noqa: S105  # a type, not a token
    expires_in: int = Field(description="Seconds the access token is good for.")
    session_id: Id


class Provider(Result):
    name: str
    label: str = Field(description="What a button says.")
    start: str = Field(description="Where a browser goes to sign in.")


class ProviderList(Result):
    items: list[Provider]


@operation(
    "account.register",
    permission=PUBLIC,
    kind="write",
    http=Http("POST", "/v1/auth/register", 201),
    socket=False,
    faults=("conflict", "permission_denied", "rate_limited"),
    cost=20,
)
async def register(call: Call, params: Register) -> Registered:
    """Register a user.

    An invitation joins its tenant (where an address must be verified, as soon as it is); an open
    registration makes a tenant of one's own, with the new user as its owner. Whether registration
    is open is the operator's choice (`HUB_REGISTRATION`). A letter is sent to verify the address;
    whether one may sign in before it is verified is the operator's choice too
    (`HUB_REQUIRE_VERIFIED`).

    Where one may not, the answer is the same, after the same time, whether the address has an
    account or not, and the ids in it are of nothing if it has: a letter tells its owner, and gives
    the invitation to them. The tenant that invited does not learn it either: it sees an invitation
    for that address that waits, until whose address it is comes in.
    Where one may, no letter need be read, and such an address is answered `conflict`.
    """
    user, tenant = await call.services.accounts.register(
        params.email,
        params.password.get_secret_value(),
        params.name,
        params.invitation,
        address=call.address,
    )
    return Registered(
        user=UserShape(id=user.id, email=user.email, name=user.name),
        tenant=TenantShape(id=tenant.id, name=tenant.name),
    )


def _secret(given: SecretStr | None) -> str | None:
    return given.get_secret_value() if given is not None else None


def _session(pair: TokenPair, call: Call | None = None, *, cookie: bool = False) -> Session:
    answer = Session.model_validate(pair, from_attributes=True)
    if call is None or not cookie:
        return answer
    call.set_refresh_cookie = pair.refresh_token
    return answer.model_copy(update={"refresh_token": None})


@operation(
    "account.login",
    permission=PUBLIC,
    kind="write",
    http=Http("POST", "/v1/auth/login"),
    socket=False,
    faults=(
        "unauthenticated",
        "second_factor_required",
        "permission_denied",
        "conflict",
        "rate_limited",
    ),
    cost=20,
)
async def login(call: Call, params: Login) -> Session:
    """Sign in with e-mail and password.

    The answer is the same for an unknown user, a wrong password, a disabled user and an address
    that is not verified where it must be. Who fails too often, with an account or from an address,
    is answered `rate_limited` for a while, whether the password is right or not. Who has a second
    factor is told `second_factor_required`, with `details.challenge` for `account.second_factor`.

    An `invitation` is accepted at once, for who has an account but no tenant to enter, or not that
    one: one that is not valid is `permission_denied`, and a member already is told `conflict`. Who
    has a second factor sends it with the code again, and joins then.
    """
    try:
        pair = await call.services.accounts.login(
            params.email,
            params.password.get_secret_value(),
            params.tenant,
            device=call.device,
            address=call.address,
            invitation=_secret(params.invitation),
        )
    except Fault as fault:
        outcomes = {"rate_limited": "limited", "second_factor_required": "challenged"}
        outcome = outcomes.get(fault.reason, "refused")
        call.services.metrics.logins.labels(outcome).inc()
        raise
    call.services.metrics.logins.labels("accepted").inc()
    return _session(pair, call, cookie=params.cookie)


@operation(
    "account.redeem",
    permission=PUBLIC,
    kind="write",
    http=Http("POST", "/v1/auth/link"),
    socket=False,
    faults=("unauthenticated", "second_factor_required"),
    cost=20,
)
async def redeem(call: Call, params: Redeem) -> Session:
    """Sign in with the code of a one-time login link.

    Who has a second factor is told `second_factor_required`, as by `account.login`.
    """
    pair = await call.services.accounts.redeem(
        params.code.get_secret_value(), device=call.device, address=call.address
    )
    return _session(pair, call, cookie=params.cookie)


@operation(
    "account.second_factor",
    permission=PUBLIC,
    kind="write",
    http=Http("POST", "/v1/auth/factor"),
    socket=False,
    cost=20,
    faults=("unauthenticated", "permission_denied", "conflict", "rate_limited"),
)
async def second_factor(call: Call, params: SecondFactor) -> Session:
    """Finish a sign-in that was answered `second_factor_required`.

    The challenge is good for 5 minutes, one right code and five wrong ones. A code of the
    authenticator is good once; it may be 30 seconds early or late.
    """
    pair = await call.services.factors.continue_login(
        params.challenge.get_secret_value(),
        params.code.get_secret_value(),
        device=call.device,
        address=call.address,
        invitation=_secret(params.invitation),
    )
    call.services.metrics.logins.labels("accepted").inc()
    return _session(pair, call, cookie=params.cookie)


@operation(
    "account.refresh",
    permission=PUBLIC,
    kind="write",
    http=Http("POST", "/v1/auth/refresh"),
    socket=False,
    faults=("unauthenticated",),
    cost=5,
    audited=False,  # a reuse is, by itself
)
async def refresh(call: Call, params: Refresh) -> Session:
    """Exchange a refresh token for new tokens.

    A refresh token works once. One that is used again long after ends the whole session, because
    it may have been stolen.
    """
    given, cookie = params.refresh_token, call.refresh_cookie
    if given is not None:
        return _session(await call.services.accounts.refresh(given.get_secret_value()))
    if cookie is None:
        raise Fault("unauthenticated", "Send a refresh token, or the cookie that holds it.")
    return _session(await call.services.accounts.refresh(cookie), call, cookie=True)


@operation(
    "account.logout",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/auth/logout"),
    while_enrolling=True,
)
async def logout(call: Call, params: Logout) -> Done:
    """Sign out: end this login session, its tokens and its sockets; or all of yours.

    With `everywhere` sign-ins that wait for a second factor, login links, a move to another address
    that waits and letters of `factor.reset` are void too. API keys go on, since what runs by them
    is not signed in, unless `keys` says so.
    """
    if params.keys and not params.everywhere:
        raise Fault("invalid_params", "keys: goes with everywhere alone.")
    if params.everywhere:
        await call.services.accounts.logout_everywhere(call.actor.user_id, keys=params.keys)
    else:
        await call.services.accounts.logout(call.actor.session_id)
    if call.refresh_cookie is not None:
        call.set_refresh_cookie = ""
    return Done()


@operation(
    "account.providers",
    permission=PUBLIC,
    kind="read",
    http=Http("GET", "/v1/providers"),
    socket=False,
)
async def providers(call: Call, params: Nothing) -> ProviderList:
    """The identity providers that one can sign in through.

    A browser that is sent to `start` comes back to `/#code=…`, with the code of a one-time login
    link, or to `/#problem=…`, with the reason of a fault.
    """
    known = call.services.providers.all
    return ProviderList(
        items=[
            Provider(name=one.name, label=one.shown, start=f"{PATH}/{one.name}/start")
            for one in known
        ]
    )
