"""The session on a connection: credentials, and who one is."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, SecretStr

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
from hub.operations.shapes import Id, Listing, PageById
from hub.protocol.limits import SESSION_KEY_PATTERN
from hub.rbac.actor import Actor
from hub.storage import tables


class Refresh(Params):
    # What is too long for a token is refused as any other that is not valid.
    token: SecretStr = Field(max_length=65_536, description="An access token, or an API key.")


SessionKey = Annotated[str, Field(pattern=SESSION_KEY_PATTERN)]


class Authenticate(Refresh):
    session_key: SessionKey | None = Field(
        None, description="Your name for the persistent session to go on with, or to begin."
    )


class Forget(Params):
    session_key: SessionKey


class Authenticated(Result):
    """Accepted."""

    expires_at: datetime | None = Field(
        None, description="The end of the access token, or of the API key if it has one."
    )


class Info(Result):
    user_id: Id
    tenant_id: Id
    session_id: Id = Field(description="Of the login session, or of the API key.")
    roles: list[str]
    permissions: list[str]
    expires_at: datetime | None = None
    node: str


class LoginSession(Result):
    """A sign-in, and all that descends from it."""

    id: Id
    device: str | None = Field(None, description="What it said of itself (`User-Agent`).")
    address: str | None = None
    created_at: datetime
    last_seen_at: datetime = Field(description="To the minute.")
    expires_at: datetime
    current: bool = Field(description="Whether it is the one that asks.")

    @classmethod
    def of(cls, row: tables.LoginSession, actor: Actor) -> "LoginSession":
        return cls(
            id=row.id,
            device=row.device,
            address=row.address,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
            current=row.id == actor.session_id,
        )


class Named(Params):
    session_id: Id


class Pong(Result):
    time: datetime = Field(description="The hub's clock.")


@operation(
    "session.authenticate",
    permission=PUBLIC,
    kind="write",
    faults=("permission_denied", "conflict", "rate_limited"),
    audited=False,  # it shows credentials that a sign-in gave
)
async def authenticate(call: Call, params: Authenticate) -> Authenticated:
    """Show credentials on a connection that was opened without them (as browsers must).

    The first request of the connection, within 10 seconds of its opening. The notification
    `session.ready` comes first, then the reply.

    With a `session_key` the channels that the session of this name remembers are followed again,
    each from the position that was acknowledged last, and `subscription.resumed` says so. The
    connection that had the session is closed with 4505.
    """
    return await _take_token(call, params.token.get_secret_value(), params.session_key)


@operation("session.refresh", permission=PUBLIC, kind="write", audited=False)  # as above
async def refresh(call: Call, params: Refresh) -> Authenticated:
    """Swap the access token on the open connection for a newer one of the same user.

    Every subscription is checked again.
    """
    return await _take_token(call, params.token.get_secret_value())


async def _take_token(call: Call, token: str, session_key: str | None = None) -> Authenticated:
    assert call.connection is not None, "declared for the socket only"
    ready: Any = await call.connection.authenticate(token, session_key)
    return Authenticated(expires_at=ready.get("expires_at"))


@operation(
    "session.info",
    permission=SIGNED_IN,
    kind="read",
    http=Http("GET", "/v1/sessions/current"),
    by_key=True,
    while_enrolling=True,
)
async def info(call: Call, params: Nothing) -> Info:
    """Who you are: user, tenant, roles and permissions as they are now."""
    assert call.claims is not None
    actor = call.actor
    return Info(
        user_id=actor.user_id,
        tenant_id=actor.tenant_id,
        session_id=actor.session_id,
        roles=list(actor.roles),
        permissions=sorted(actor.permissions),
        expires_at=call.claims.end,
        node=call.services.node,
    )


@operation(
    "session.list",
    permission="session:read",
    kind="read",
    http=Http("GET", "/v1/sessions"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: PageById) -> Listing[LoginSession]:
    """List your login sessions in this tenant that are not over, the newest first."""
    return await sessions_of(call, call.actor.user_id, params)


async def sessions_of(call: Call, user_id: str, page: PageById) -> Listing[LoginSession]:
    """A page of the login sessions of a user in the tenant of who asks."""
    actor = call.actor
    found = await call.services.accounts.sessions(
        actor.tenant_id, user_id, after=page.cursor, limit=page.limit + 1
    )
    shapes = [LoginSession.of(row, actor) for row in found]
    return Listing.page(shapes, page.limit, lambda item: item.id)


@operation(
    "session.revoke",
    permission="session:revoke",
    kind="write",
    http=Http("POST", "/v1/sessions/{session_id}/revoke"),
    guards=("session", "session_id"),
    faults=("not_found", "permission_denied"),
)
async def revoke(call: Call, params: Named) -> Done:
    """End a login session, its tokens and its sockets, on every node within a second.

    That of somebody who ranks above you is `permission_denied`.
    """
    await call.services.accounts.revoke_session(params.session_id, call.actor)
    return Done()


@operation(
    "session.forget",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/sessions/forget"),
    by_key=True,
    audited=False,  # a bot's bookkeeping
)
async def forget(call: Call, params: Forget) -> Done:
    """End a persistent session of yours, and forget what it followed.

    The connection that asks goes on without it; another that has it is closed with 4505. One that
    is not there is fine.
    """
    if call.connection is not None:
        call.connection.detach(params.session_key)
    actor = call.actor
    await call.services.client_sessions.forget(actor.tenant_id, actor.user_id, params.session_key)
    return Done()


@operation("session.ping", permission=PUBLIC, kind="read")
async def ping(call: Call, params: Nothing) -> Pong:
    """Answer with the hub's time: a round trip through the whole socket."""
    return Pong(time=datetime.now(UTC))
