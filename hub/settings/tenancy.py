"""Settings of the life of tenants."""

from pydantic import Field
from pydantic_settings import BaseSettings


class TenancySettings(BaseSettings):
    """How tenants end."""

    tenant_grace_days: int = Field(
        30,
        ge=0,
        le=3_650,
        alias="HUB_TENANT_GRACE_DAYS",
        description="Days after its deletion in which a tenant can be restored; then all that it "
        "had is purged. A change is for deletions that come. 0: no way back.",
    )
