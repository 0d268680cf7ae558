"""Tenants: what one's own has settled, and what the operator does with all of them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal

from pydantic import EmailStr, Field

from hub.operations.call import Call
from hub.operations.operation import Http, Operation, Params, Result, operation
from hub.operations.shapes import Id, Listing, PageById, Text
from hub.storage import tables
from hub.storage.tenant_settings import TenantSettings, parsed
from hub.tenancy.tenants import NAME_PATTERN, state_of

_HUB = ("hub", "")
_GUARDS = ("tenant", "tenant_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/tenants/{tenant_id}"


class Tenant(Result):
    """A tenant. Only an ``active`` one lets its members in."""

    id: Id
    name: str
    state: Literal["active", "suspended", "deleted"]
    settings: TenantSettings
    created_at: datetime
    updated_at: datetime
    suspended_at: datetime | None = None
    deleted_at: datetime | None = None
    purge_at: datetime | None = Field(
        None, description="When a deleted one goes for good; until then it can be restored."
    )

    @classmethod
    def of(cls, row: tables.Tenant) -> "Tenant":
        return cls(
            id=row.id,
            name=row.name,
            state=state_of(row),
            settings=parsed(row.settings),
            created_at=row.created_at,
            updated_at=row.updated_at,
            suspended_at=row.suspended_at,
            deleted_at=row.deleted_at,
            purge_at=row.purge_at,
        )


class NewTenant(Result):
    """A tenant that was made, and the ``invitation`` of its owner, if one was named."""

    tenant: Tenant
    invitation: str | None = Field(
        None, description="The code by which the owner comes in, within seven days. Shown once."
    )


class Create(Params):
    name: str = Field(min_length=1, max_length=100, pattern=NAME_PATTERN)
    owner: EmailStr | None = Field(
        None, max_length=320, description="The address of who may come in as its owner."
    )
    settings: TenantSettings | None = None


class Named(Params):
    tenant_id: Id


class Update(Named):
    settings: TenantSettings = Field(
        description="What is left out stays as it is; null takes it away."
    )


class Delete(Named):
    confirm: Text = Field(max_length=200, description="The tenant's name.")


_Handler = Callable[[Call, Named], Awaitable[Tenant]]


def _operated(verb: str, *, permission: str) -> Callable[[_Handler], Operation[Named, Tenant]]:
    """What is done to tenants by members of the one that the hub began with."""
    return operation(
        f"tenant.{verb}",
        permission=permission,
        kind="write",
        http=Http("POST", f"{_PATH}/{verb}"),
        guards=("operated", "tenant_id"),
        faults=(*_FAULTS, "conflict"),
    )


@operation(
    "tenant.create",
    permission="tenant:create",
    kind="write",
    http=Http("POST", "/v1/tenants", 201),
    guards=_HUB,
    faults=(*_FAULTS, "conflict"),
)
async def create(call: Call, params: Create) -> NewTenant:
    """Make a tenant.

    For members of the tenant that the hub began with. The invitation lets its owner register, or
    accept it with the account that they have (`invitation.accept`).
    """
    owner = params.owner.lower() if params.owner is not None else None
    made, code = await call.services.tenants.create(
        params.name, by=call.actor, owner=owner, settings=params.settings
    )
    return NewTenant(tenant=Tenant.of(made), invitation=code)


@operation(
    "tenant.list",
    permission="tenant:list",
    kind="read",
    http=Http("GET", "/v1/tenants"),
    guards=_HUB,
    faults=_FAULTS,
)
async def listing(call: Call, params: PageById) -> Listing[Tenant]:
    """List all tenants, the oldest first.

    For members of the tenant that the hub began with. One's own tenants are in `account.tenants`.
    """
    found = await call.services.tenants.listed(params.cursor, params.limit + 1)
    return Listing.page([Tenant.of(row) for row in found], params.limit, lambda item: item.id)


@operation(
    "tenant.get",
    permission="tenant:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Tenant:
    """Read a tenant and its settings."""
    return Tenant.of(await call.services.tenants.get(params.tenant_id))


@operation(
    "tenant.update",
    permission="tenant:update",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def update(call: Call, params: Update) -> Tenant:
    """Change what a tenant has settled."""
    tenants = call.services.tenants
    return Tenant.of(await tenants.update(params.tenant_id, params.settings, by=call.actor))


@_operated("suspend", permission="tenant:suspend")
async def suspend(call: Call, params: Named) -> Tenant:
    """Close a tenant to all its members, at once: sessions, sockets, streams and runs end.

    For members of the tenant that the hub began with, which itself cannot be suspended.
    """
    return Tenant.of(await call.services.tenants.suspend(params.tenant_id, by=call.actor))


@_operated("resume", permission="tenant:suspend")
async def resume(call: Call, params: Named) -> Tenant:
    """Open a suspended tenant again.

    For members of the tenant that the hub began with.
    """
    return Tenant.of(await call.services.tenants.resume(params.tenant_id, by=call.actor))


@operation(
    "tenant.delete",
    permission="tenant:delete",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def delete(call: Call, params: Delete) -> Tenant:
    """Delete a tenant: it is closed at once, and purged when its grace is over.

    Until `purge_at` the operator can restore it. All that it has goes then, the users too who
    belong to no other tenant. `confirm` is its name.
    """
    tenants = call.services.tenants
    return Tenant.of(await tenants.delete(params.tenant_id, params.confirm, by=call.actor))


@_operated("restore", permission="tenant:restore")
async def restore(call: Call, params: Named) -> Tenant:
    """Take the deletion of a tenant back, within its grace.

    For members of the tenant that the hub began with. A tenant that was suspended before stays so.
    """
    return Tenant.of(await call.services.tenants.restore(params.tenant_id, by=call.actor))
