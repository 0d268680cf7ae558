"""Users, for the administrators of their tenant."""

from datetime import datetime

from pydantic import EmailStr, Field

from hub.identity.accounts.users import Profile
from hub.operations.call import Call
from hub.operations.member import Invitation
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.own_account import Exported, ExportPage, exported
from hub.operations.session import LoginSession, sessions_of
from hub.operations.shapes import Id, Listing, PageById, Text

_GUARDS = ("user", "user_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/users/{user_id}"


class User(Result):
    """A user in the tenant."""

    id: Id
    email: str
    name: str | None = Field(None, description="In this tenant, or else of the account.")
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


class Create(Params):
    email: EmailStr = Field(max_length=320)
    role: Text = Field("member", max_length=64, description="A role of the tenant, by id or name.")
    name: Text | None = Field(None, min_length=1, max_length=200)


class Created(Result):
    """One of the two."""

    user: User | None = Field(None, description="Who is a member from now on.")
    invitation: Invitation | None = Field(
        None, description="What waits for whose address it is, where it must be verified."
    )


class Update(Named):
    name: Text | None = Field(
        max_length=200, min_length=1, description="null: that of the account again."
    )


class SessionsOf(Named, PageById):
    """Whose, and which part of the list."""


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
    "user.create",
    permission="member:invite",
    kind="write",
    http=Http("POST", "/v1/users", 201),
    cost=20,
    faults=(*_FAULTS, "conflict", "rate_limited"),
)
async def create(call: Call, params: Create) -> Created:
    """Make a user in your tenant, in a role that does not rank above you.

    A letter has them choose a password. You give none: one that you knew would open every tenant
    that they come into. Where an address need not be verified to sign in, they are a member at
    once, and one that has an account is a `conflict` (`invitation.create` invites it). Where it
    must (`HUB_REQUIRE_VERIFIED`), you do not learn which have one: in both cases an invitation
    waits, a new user comes in as they choose their password, and who has an account by the code in
    their letter. Whether people may register (`HUB_REGISTRATION`) makes no difference.
    """
    made = await call.services.newcomers.make(call.actor, params.email, params.role, params.name)
    if made.invitation is not None:
        return Created(invitation=Invitation.of(made.invitation))
    assert made.user_id is not None, "one of the two"
    user = await call.services.users.get(call.actor.tenant_id, made.user_id)
    return Created(user=User.of(user))


@operation(
    "user.update",
    permission="user:disable",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def update(call: Call, params: Update) -> User:
    """Say what a user is called in this tenant, in place of the name of their account.

    Other tenants, and the account, notice nothing; it ends with the membership. Who ranks above you
    is `permission_denied`; yourself is a `conflict`: see `account.update`; and so is a service
    account: see `service.update`.
    """
    return User.of(
        await call.services.users.rename(
            call.actor.tenant_id, call.actor, params.user_id, params.name
        )
    )


@operation(
    "user.verify",
    permission="member:invite",
    kind="write",
    http=Http("POST", f"{_PATH}/verify"),
    guards=_GUARDS,
    cost=5,
    faults=(*_FAULTS, "conflict", "rate_limited"),
)
async def verify(call: Call, params: Named) -> Done:
    """Have the letter sent to a user by which they verify their address, if it is not verified.

    Nobody says over the wire that an address is somebody's: who is known by it would be let into
    other tenants, and in by identity providers, on the word of this one. The hub's operator can
    (`hub user verify`). Who ranks above you is `permission_denied`; yourself is a `conflict`.
    """
    actor = call.actor
    await call.services.recovery.help("verify", actor.tenant_id, actor, params.user_id)
    return Done()


@operation(
    "user.reset_password",
    permission="session:revoke:any",
    kind="write",
    http=Http("POST", f"{_PATH}/reset-password"),
    guards=_GUARDS,
    cost=5,
    faults=(*_FAULTS, "conflict", "rate_limited"),
)
async def reset_password(call: Call, params: Named) -> Done:
    """End a user's sessions in this tenant, and have the letter sent by which they choose a new
    password.

    Until they have, the old one is good: who must not come in meanwhile is disabled
    (`user.disable`). Nobody sets another's password over the wire, since it opens whatever tenants
    they are in; the hub's operator can (`hub user reset-password`). Who ranks above you is
    `permission_denied`; yourself is a `conflict`; where it is `rate_limited` no letter was sent.
    """
    actor = call.actor
    await call.services.recovery.help("reset", actor.tenant_id, actor, params.user_id)
    return Done()


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
    return User.of(
        await call.services.users.disable(call.actor.tenant_id, call.actor, params.user_id)
    )


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
    return User.of(
        await call.services.users.enable(call.actor.tenant_id, call.actor, params.user_id)
    )


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
    await call.services.departures.remove(call.actor.tenant_id, call.actor, params.user_id)
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
    """Read all that the hub holds of a user in this tenant, as `account.export` does.

    It is without who they are at identity providers, the roles that these gave them, and whether
    they have a second factor.
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
async def sessions(call: Call, params: SessionsOf) -> Listing[LoginSession]:
    """List the login sessions of a user in this tenant that are not over, the newest first."""
    return await sessions_of(call, params.user_id, params)


@operation(
    "user.sign_out",
    permission="session:revoke:any",
    kind="write",
    http=Http("POST", f"{_PATH}/sign-out"),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def sign_out(call: Call, params: Named) -> Done:
    """End all login sessions of a user in this tenant, their tokens and their sockets.

    One of them is ended by `session.revoke`. Who ranks above you is `permission_denied`; yourself
    is a `conflict`: see `account.logout`.
    """
    await call.services.users.sign_out(call.actor.tenant_id, call.actor, params.user_id)
    return Done()
