"""Settings of the audit trail."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class AuditSettings(BaseSettings):
    """How long the trail is kept, and what signs it."""

    audit_retention_days: int | None = Field(
        None,
        ge=1,
        alias="HUB_AUDIT_RETENTION_DAYS",
        description="Days for which audit entries are kept; older ones are deleted, and a signed "
        "note of it remains in the chain. A tenant may settle for fewer. Default: for ever.",
    )
    audit_retention_least_days: int = Field(
        30,
        ge=1,
        alias="HUB_AUDIT_RETENTION_LEAST_DAYS",
        description="Days for which audit entries are kept at least, whatever a tenant settles: "
        "nobody in it is to be rid of the trail before somebody else may have looked into it. "
        "HUB_AUDIT_RETENTION_DAYS, which is the operator's, may be less.",
    )
    audit_key_file: Path | None = Field(
        None,
        alias="HUB_AUDIT_KEY_FILE",
        description="File of the Ed25519 private key (PEM) that signs checkpoints of the audit "
        "trail and notes of what was pruned; the same one for all nodes. Default: `audit.key` in "
        "the data directory, generated.",
    )
