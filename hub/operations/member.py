"""Members of a tenant, invitations into it, and the tenants that one belongs to."""

from datetime import datetime

from pydantic import EmailStr, Field, SecretStr

from hub.operations.call import Call
from hub.operations.operation import (
    SIGNED_IN,
    Done,
    Http,
    Params,
    Result,
    operation,
)
from hub.operations.shapes import Id, Listing, PageById
from hub.storage import tables
from hub.storage.tenant_settings import parsed
from hub.tenancy import members

_FAULTS = ("permission_denied",)


class Member(Result):
    """A user in a tenant. ``disabled``: they can sign in nowhere."""

    user_id: Id
    email: str
    name: str | None = Field(None, description="In this tenant, or else of the account.")
    roles: list[str] = Field(description="Names, the highest first.")
    since: datetime
    disabled: bool


class OwnTenant(Result):
    """A tenant that one belongs to."""

    id: Id
    name: str = Field(description="What `account.login` takes as `tenant`, like the id.")
    display_name: str | None = None
    roles: list[str] = Field(description="Names, the highest first.")
    current: bool = Field(description="Whether the credentials shown are for this one.")

    @classmethod
    def of(cls, found: members.Belonging, call: Call) -> "OwnTenant":
        return cls(
            id=found.tenant.id,
            name=found.tenant.name,
            display_name=parsed(found.tenant.settings).display_name,
            roles=list(found.roles),
            current=found.tenant.id == call.actor.tenant_id,
        )


class Invitation(Result):
    """An invitation that waits to be accepted."""

    id: Id
    role: str = Field(description="The role's id.")
    email: str | None = Field(None, description="The only address that it lets in.")
    invited_by: Id | None = Field(None, description="The member on whose rank it rests.")
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: tables.Invitation) -> "Invitation":
        return cls(
            id=row.id,
            role=row.role_id,
            email=row.email,
            invited_by=row.invited_by,
            created_at=row.created_at,
            expires_at=row.expires_at,
        )


class NewInvitation(Result):
    """An invitation, and the ``code`` that its guest registers or accepts with. Shown once."""

    invitation: Invitation
    code: str


class Remove(Params):
    user_id: Id


class Invite(Params):
    role: str = Field(
        "member",
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00]*$",
        description="The id or the name of a role, up to one's own rank.",
    )
    email: EmailStr | None = Field(
        None, max_length=320, description="The only address that it lets in; none: whoever has it."
    )


class Revoke(Params):
    invitation_id: Id


class Accept(Params):
    code: SecretStr = Field(max_length=200, description="The code of the invitation.")


@operation(
    "member.list",
    permission="member:read",
    kind="read",
    http=Http("GET", "/v1/members"),
    faults=_FAULTS,
)
async def listing(call: Call, params: PageById) -> Listing[Member]:
    """List the members of your tenant, in the order of their ids."""
    tenant_id = call.actor.tenant_id
    found = await call.services.members.listed(tenant_id, params.cursor, params.limit + 1)
    items = [Member.model_validate(each, from_attributes=True) for each in found]
    return Listing.page(items, params.limit, lambda item: item.user_id)


@operation(
    "member.remove",
    permission="member:remove",
    kind="write",
    http=Http("DELETE", "/v1/members/{user_id}"),
    faults=(*_FAULTS, "not_found", "conflict"),
)
async def remove(call: Call, params: Remove) -> Done:
    """End a membership in your tenant, at once: sessions, sockets, streams and runs end.

    Nobody removes a member who ranks above them, and the last owner stays (`conflict`). The user,
    and what they said here, are not deleted. Their invitations that wait are void.
    """
    await call.services.members.remove(call.actor.tenant_id, params.user_id, by=call.actor)
    return Done()


@operation(
    "invitation.create",
    permission="member:invite",
    kind="write",
    http=Http("POST", "/v1/invitations", 201),
    faults=(*_FAULTS, "not_found", "conflict"),
)
async def invite(call: Call, params: Invite) -> NewInvitation:
    """Invite somebody into your tenant, in a role that does not rank above you.

    The code works once, for seven days, while whoever invites is a member of at least that rank.
    Somebody new registers with it; who has an account accepts it (`invitation.accept`, or
    `account.login` with it).
    """
    email = params.email.lower() if params.email is not None else None
    made, code = await call.services.members.invite(
        call.actor.tenant_id, params.role, email, by=call.actor
    )
    return NewInvitation(invitation=Invitation.of(made), code=code)


@operation(
    "invitation.list",
    permission="member:invite",
    kind="read",
    http=Http("GET", "/v1/invitations"),
    faults=_FAULTS,
)
async def invited(call: Call, params: PageById) -> Listing[Invitation]:
    """List the invitations into your tenant that wait to be accepted, the oldest first."""
    tenant_id = call.actor.tenant_id
    found = await call.services.members.invited(tenant_id, params.cursor, params.limit + 1)
    return Listing.page([Invitation.of(row) for row in found], params.limit, lambda item: item.id)


@operation(
    "invitation.revoke",
    permission="member:invite",
    kind="write",
    http=Http("DELETE", "/v1/invitations/{invitation_id}"),
    faults=(*_FAULTS, "not_found"),
)
async def revoke(call: Call, params: Revoke) -> Done:
    """Make an invitation void that waits to be accepted."""
    await call.services.members.revoke_invitation(call.actor.tenant_id, params.invitation_id)
    return Done()


@operation(
    "invitation.accept",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/account/tenants"),
    faults=(*_FAULTS, "conflict"),
)
async def accept(call: Call, params: Accept) -> OwnTenant:
    """Join another tenant with the account that you have.

    The session that asks stays where it is: sign in again with `tenant` to enter the other one.
    """
    code = params.code.get_secret_value()
    joined = await call.services.members.join(call.actor.user_id, code)
    return OwnTenant.of(joined, call)


@operation(
    "account.tenants",
    permission=SIGNED_IN,
    kind="read",
    http=Http("GET", "/v1/account/tenants"),
)
async def tenants(call: Call, params: PageById) -> Listing[OwnTenant]:
    """List the tenants that you may enter, in the order of their ids.

    `account.login` chooses among them with `tenant`; the oldest membership is the default.
    """
    found = await call.services.members.of(call.actor.user_id, params.cursor, params.limit + 1)
    return Listing.page(
        [OwnTenant.of(each, call) for each in found], params.limit, lambda item: item.id
    )
