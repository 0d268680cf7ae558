"""API keys, for bots, services and scripts."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field

from hub.faults import Fault
from hub.identity.keys.api_keys import MOST_OVERLAP_S, OVERLAP_S, Changes, Wanted
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.role import PermissionName
from hub.operations.shapes import Id, Listing, PageById, Text
from hub.rbac.permissions import ANY, holds
from hub.storage import tables

MOST_DAYS: Final = 3_650

_GUARDS = ("apikey", "api_key_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/apikeys/{api_key_id}"

Name = Annotated[Text, Field(min_length=1, max_length=200)]
Scopes = Annotated[list[PermissionName], Field(max_length=200)]
Life = Annotated[int, Field(ge=1, le=MOST_DAYS * 86_400)]
"""Seconds from now, whatever the clock of who asks says."""


class Create(Params):
    name: Name
    scopes: Scopes | None = Field(
        None,
        description="Permissions (`permission.list`) that the key is limited to. Default: all that "
        "you and its user hold now, but for those of the families apikey, service and tool.",
    )
    expires_in: Life | None = Field(
        None, description="Seconds until it expires. Default: it does not."
    )
    service_id: Id | None = Field(
        None, description="The service account whose key it is. Default: your own."
    )


class Page(PageById):
    of: Literal["me", "tenant"] = Field(
        "me", description="Your own, or, for who holds `apikey:read:any`, everybody's."
    )


class Named(Params):
    api_key_id: Id


class Update(Named):
    """What is left out stays as it is."""

    name: Name | None = None
    scopes: Scopes | None = None
    expires_in: Life | None = Field(
        None, description="Seconds from now until it expires. null: it does not."
    )


class Rotate(Named):
    overlap_s: int = Field(
        OVERLAP_S,
        ge=0,
        le=MOST_OVERLAP_S,
        description="Seconds for which the secret of before stays good. 0: it is good no more.",
    )


class ApiKey(Result):
    """An API key, without its secret."""

    id: Id
    user_id: Id = Field(description="Whose key it is: who uses it acts as this user.")
    name: str
    scopes: list[str] = Field(
        description="What it is limited to. It may do of these what its user may."
    )
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = Field(None, description="To the minute.")
    rotated_at: datetime | None = None
    previous_until: datetime | None = Field(
        None, description="Until when the secret of before the rotation is good."
    )
    revoked_at: datetime | None = None

    @classmethod
    def of(cls, row: tables.ApiKey, **more: str) -> Self:
        fields = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        return cls(**{**fields, "scopes": row.scopes.split(), **more})


class NewApiKey(ApiKey):
    """An API key with its secret."""

    key: str = Field(description="Send it as `Authorization: Bearer …`. It is not shown again.")


def _end(expires_in: int | None) -> datetime | None:
    return None if expires_in is None else tables.now() + timedelta(seconds=expires_in)


@operation(
    "apikey.create",
    permission="apikey:create",
    kind="write",
    http=Http("POST", "/v1/apikeys", 201),
    guards=("service", "service_id"),
    shown_once=True,
    faults=(*_FAULTS, "conflict"),
)
async def create(call: Call, params: Create) -> NewApiKey:
    """Make an API key, for yourself or for a service account.

    It is shown once. What it may do is what its scopes and the roles of its user both allow, at any
    moment; and it is given no more than you may do yourself.
    """
    actor = call.actor
    wanted = Wanted(params.name, params.scopes, _end(params.expires_in))
    row, text = await call.services.api_keys.create(
        actor, params.service_id or actor.user_id, actor.tenant_id, wanted
    )
    return NewApiKey.of(row, key=text)


@operation(
    "apikey.list",
    permission="apikey:read",
    kind="read",
    http=Http("GET", "/v1/apikeys"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: Page) -> Listing[ApiKey]:
    """List API keys that are not revoked, the newest first."""
    actor = call.actor
    if params.of == "tenant" and not holds(actor.permissions, f"apikey:read{ANY}"):
        raise Fault("permission_denied")
    whose = actor.user_id if params.of == "me" else None
    rows = await call.services.api_keys.page(
        actor.tenant_id, whose, params.cursor, params.limit + 1
    )
    return Listing.page([ApiKey.of(row) for row in rows], params.limit, lambda item: item.id)


@operation(
    "apikey.get",
    permission="apikey:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> ApiKey:
    """Read an API key, revoked ones included."""
    return ApiKey.of(await call.services.api_keys.get(call.actor.tenant_id, params.api_key_id))


@operation(
    "apikey.update",
    permission="apikey:write",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    ordered_by="api_key_id",
    faults=(*_FAULTS, "conflict"),
)
async def update(call: Call, params: Update) -> ApiKey:
    """Change an API key's name, scopes or end; what it allowed ends at once."""
    given = params.model_fields_set
    changes = Changes(
        params.name,
        params.scopes,
        _end(params.expires_in),
        forever="expires_in" in given and params.expires_in is None,
    )
    row = await call.services.api_keys.update(
        call.actor, call.actor.tenant_id, params.api_key_id, changes
    )
    return ApiKey.of(row)


@operation(
    "apikey.rotate",
    permission="apikey:create",
    kind="write",
    http=Http("POST", f"{_PATH}/rotate"),
    guards=_GUARDS,
    ordered_by="api_key_id",
    shown_once=True,
    faults=(*_FAULTS, "conflict"),
)
async def rotate(call: Call, params: Rotate) -> NewApiKey:
    """Give an API key another secret, which is shown once.

    The one before stays good for a day, unless `overlap_s` says otherwise; then what was opened by
    it is closed.
    """
    row, text = await call.services.api_keys.rotate(
        call.actor, call.actor.tenant_id, params.api_key_id, params.overlap_s
    )
    return NewApiKey.of(row, key=text)


@operation(
    "apikey.revoke",
    permission="apikey:revoke",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    ordered_by="api_key_id",
    faults=_FAULTS,
)
async def revoke(call: Call, params: Named) -> Done:
    """End an API key for good: its sockets and runs end at once.

    That of somebody who ranks above you is `permission_denied`.
    """
    await call.services.api_keys.revoke(call.actor, call.actor.tenant_id, params.api_key_id)
    return Done()
