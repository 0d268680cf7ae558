"""What a tenant has settled for itself: one typed document, kept as JSON in its row."""

from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import Tenant

DOMAIN_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$"

Domain = Annotated[str, Field(pattern=DOMAIN_PATTERN, max_length=253)]


class TenantSettings(BaseModel):
    """Settings of a tenant. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    display_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*$",
        description="What its members call it; none: its name.",
    )
    default_model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*$",
        description="The model of runs whose message and conversation name none; none: the hub's.",
    )
    invitation_domains: list[Domain] | None = Field(
        None,
        max_length=50,
        description="Domains (`hub.example`) of the addresses that invitations let in; none: any.",
    )
    answer_cache: bool = Field(
        False, description="Whether answers to exactly the same prompt may be given again."
    )
    audit_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Days for which audit entries are kept, if the hub keeps them so long; no "
        "fewer than the hub demands (`HUB_AUDIT_RETENTION_LEAST_DAYS`). None: as long as the hub "
        "does.",
    )

    def changed(self, changes: "TenantSettings") -> "TenantSettings":
        """These, with what ``changes`` was given; null takes a setting away."""
        given = {name: getattr(changes, name) for name in changes.model_fields_set}
        return self.model_copy(update=given)

    def other_than(self, before: "TenantSettings") -> list[str]:
        """The names of the settings that are not as they were."""
        fields = type(self).model_fields
        return [name for name in fields if getattr(self, name) != getattr(before, name)]

    def document(self) -> str:
        """As the row keeps it."""
        return self.model_dump_json(exclude_defaults=True)


def parsed(document: str | None) -> TenantSettings:
    """The settings that a row keeps. What a newer hub has put there is left out."""
    kept: dict[str, Any] = orjson.loads(document) if document else {}
    known = TenantSettings.model_fields
    return TenantSettings.model_validate({k: v for k, v in kept.items() if k in known})


async def settings_of(session: AsyncSession, tenant_id: str) -> TenantSettings:
    """A tenant's settings, as they are in this transaction; the defaults for none."""
    found = await session.exec(select(Tenant.settings).where(col(Tenant.id) == tenant_id))
    return parsed(found.first())
