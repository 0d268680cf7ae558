"""Users, for the administrators of their tenant."""

from datetime import datetime

from pydantic import Field

from hub.identity.accounts.users import Profile
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.own_account import Exported, ExportPage, exported
from hub.operations.session import LoginSession
from hub.operations.shapes import Id, Listing, PageById

_GUARDS = ("user", "user_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/users/{user_id}"


class User(Result):
    """A user in the tenant."""

    id: Id
    email: str
    name: str | None = None
    roles: list[str] = Field(description="Names of the roles in this tenant.")
    joined_at: datetime
    last_seen_at: datetime | None = Field(None, description="Of the sessions in this tenant.")
    verified_at: datetime | None = Field(None, description="When the address was verified, if so.")
    disabled_at: datetime | None = Field(None, description="Since when they may do nothing here.")

    @classmethod
    def of(cls, profile: Profile) -> "User":
        return cls.model_validate(profile, from_attributes=True)


class Named(Params):
    user_id: Id


class Find(PageById):
    email: str | None = Field(
        None,
        max_length=320,
        pattern="^[^@ ]+@[^@ ]+$",
        description="Only who has this address.",
    )


class Export(ExportPage, Named):
    """Whose, and which part of it."""


@operation(
    "user.list",
    permission="user:read",
    kind="read",
    http=Http("GET", "/v1/users"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: Find) -> Listing[User]:
    """List the users of the tenant."""
    found = await call.services.users.page(
        call.actor.tenant_id, after=params.cursor, limit=params.limit + 1, email=params.email
    )
    return Listing.page([User.of(each) for each in found], params.limit, lambda item: item.id)


@operation(
    "user.get",
    permission="user:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> User:
    """Read a user of the tenant."""
    return User.of(await call.services.users.get(call.actor.tenant_id, params.user_id))


@operation(
    "user.disable",
    permission="user:disable",
    kind="write",
    http=Http("POST", f"{_PATH}/disable"),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def disable(call: Call, params: Named) -> User:
    """Let a user do nothing in this tenant any more: what they have open ends within a second.

    Their roles and conversations stay. Who ranks above you is `permission_denied`; yourself, and
    the last owner, is a `conflict`.
    """
    return User.of(await call.services.users.disable(call.actor, params.user_id))


@operation(
    "user.enable",
    permission="user:disable",
    kind="write",
    http=Http("POST", f"{_PATH}/enable"),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def enable(call: Call, params: Named) -> User:
    """Let a user come in again who was disabled in this tenant.

    Who was disabled by the operator of the hub stays so.
    """
    return User.of(await call.services.users.enable(call.actor, params.user_id))


@operation(
    "user.delete",
    permission="user:delete",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def delete(call: Call, params: Named) -> Done:
    """Delete a user from the tenant, with their conversations, for good: export before.

    What they have said in the conversations of others stays, by an id that says nothing of them.
    Their invitations that wait are void. Who ranks above you is `permission_denied`; yourself, and
    the last owner, is a `conflict`.
    """
    await call.services.departures.remove(call.actor, params.user_id)
    return Done()


@operation(
    "user.export",
    permission="user:export",
    kind="read",
    http=Http("GET", f"{_PATH}/export"),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def export(call: Call, params: Export) -> Listing[Exported]:
    """Read all that the hub holds of a user in this tenant, as `account.export` does, but for who
    they are at identity providers.
    """
    tenant_id = call.actor.tenant_id
    if params.cursor is None:
        await call.services.exports.begun(tenant_id, params.user_id)
    found = await call.services.exports.page(params.user_id, tenant_id, params.cursor, params.limit)
    return exported(list(found), params.limit)


@operation(
    "user.sessions",
    permission="session:read",
    kind="read",
    http=Http("GET", f"{_PATH}/sessions"),
    guards=("account", "user_id"),
    faults=_FAULTS,
)
async def sessions(call: Call, params: Named) -> Listing[LoginSession]:
    """List the login sessions of a user in this tenant, the newest first."""
    found = await call.services.accounts.sessions(call.actor.tenant_id, params.user_id)
    return Listing(items=[LoginSession.of(row, call.actor) for row in found])
