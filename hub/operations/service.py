"""Service accounts: programs that are actors of their own."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from hub.identity.keys.service_accounts import Account
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.shapes import Id, Listing, PageById, Text
from hub.rbac.permissions import ANY, holds

_GUARDS = ("service", "service_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/services/{service_id}"

Name = Annotated[Text, Field(min_length=1, max_length=200)]


class Create(Params):
    name: Name
    role: str | None = Field(
        None,
        max_length=64,
        description="The role's id. Default: `service`. It ranks no higher than you, and may do "
        "nothing that you may not.",
    )


class Named(Params):
    service_id: Id


class Update(Named):
    name: Name


class Service(Result):
    """A service account. It has no password; `apikey.create` makes it a key."""

    id: Id
    name: str
    roles: list[str]
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None = None

    @classmethod
    def of(cls, account: Account) -> "Service":
        user = account.user
        return cls(
            id=user.id,
            name=user.name or "",
            roles=list(account.roles),
            created_at=user.created_at,
            updated_at=user.updated_at,
            disabled_at=user.disabled_at,
        )


@operation(
    "service.create",
    permission="service:create",
    kind="write",
    http=Http("POST", "/v1/services", 201),
    faults=_FAULTS,
)
async def create(call: Call, params: Create) -> Service:
    """Make a service account: an actor like any other, for a program."""
    actor = call.actor
    return Service.of(
        await call.services.service_accounts.create(
            actor, actor.tenant_id, params.name, params.role
        )
    )


@operation(
    "service.list",
    permission="service:read",
    kind="read",
    http=Http("GET", "/v1/services"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: PageById) -> Listing[Service]:
    """List the service accounts that you may see, the newest first."""
    actor = call.actor
    only = None if holds(actor.permissions, f"service:read{ANY}") else actor.user_id
    accounts = await call.services.service_accounts.page(
        actor.tenant_id, only, params.cursor, params.limit + 1
    )
    return Listing.page([Service.of(each) for each in accounts], params.limit, lambda item: item.id)


@operation(
    "service.get",
    permission="service:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Service:
    """Read a service account."""
    return Service.of(
        await call.services.service_accounts.get(call.actor.tenant_id, params.service_id)
    )


@operation(
    "service.update",
    permission="service:write",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    ordered_by="service_id",
    faults=_FAULTS,
)
async def update(call: Call, params: Update) -> Service:
    """Give a service account another name."""
    return Service.of(
        await call.services.service_accounts.rename(
            call.actor, call.actor.tenant_id, params.service_id, params.name
        )
    )


@operation(
    "service.disable",
    permission="service:write",
    kind="write",
    http=Http("POST", f"{_PATH}/disable"),
    guards=_GUARDS,
    ordered_by="service_id",
    faults=(*_FAULTS, "conflict"),
)
async def disable(call: Call, params: Named) -> Done:
    """Let a service account in no more: its sockets and runs end at once.

    Where it is the tenant's last owner that is a `conflict`.
    """
    await call.services.service_accounts.disable(
        call.actor, call.actor.tenant_id, params.service_id
    )
    return Done()


@operation(
    "service.enable",
    permission="service:write",
    kind="write",
    http=Http("POST", f"{_PATH}/enable"),
    guards=_GUARDS,
    ordered_by="service_id",
    faults=_FAULTS,
)
async def enable(call: Call, params: Named) -> Done:
    """Let a service account in again, by the keys that it has."""
    await call.services.service_accounts.enable(call.actor, call.actor.tenant_id, params.service_id)
    return Done()


@operation(
    "service.delete",
    permission="service:delete",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    ordered_by="service_id",
    faults=(*_FAULTS, "conflict"),
)
async def delete(call: Call, params: Named) -> Done:
    """Take a service account out of the tenant for good, and end its keys.

    What it has written stays. Where it is the tenant's last owner that is a `conflict`.
    """
    await call.services.service_accounts.delete(call.actor, call.actor.tenant_id, params.service_id)
    return Done()
