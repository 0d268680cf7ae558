"""The tables. Every row that belongs to a tenant says so (``TenantOwned``).

Instants are aware UTC datetimes. Identifiers are ``<prefix>_<ULID>`` (see ``hub.ids``). Secrets
are stored as hashes only.
"""

from hub.storage.tables.access import (
    BUILT_INS,
    Group,
    GroupMember,
    GroupRole,
    Membership,
    Role,
    RolePermission,
    RoleState,
)
from hub.storage.tables.audit import AuditEntry, AuditHead
from hub.storage.tables.columns import Dated, Instant, TenantOwned, instant, now
from hub.storage.tables.conversations import Conversation, Message, Run, Usage
from hub.storage.tables.factors import (
    FactorPolicy,
    LoginChallenge,
    ProvidedRole,
    ProviderIdentity,
    RecoveryCode,
    TotpFactor,
)
from hub.storage.tables.grants import Grant
from hub.storage.tables.identity import (
    AccountToken,
    ClientSession,
    DisabledMember,
    Erasure,
    Invitation,
    LoginLink,
    LoginSession,
    MemberName,
    RefreshToken,
    User,
)
from hub.storage.tables.keys import ApiKey
from hub.storage.tables.limits import Quota
from hub.storage.tables.tenants import Tenant

__all__ = [
    "BUILT_INS",
    "AccountToken",
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "ClientSession",
    "Conversation",
    "Dated",
    "DisabledMember",
    "Erasure",
    "FactorPolicy",
    "Grant",
    "Group",
    "GroupMember",
    "GroupRole",
    "Instant",
    "Invitation",
    "LoginChallenge",
    "LoginLink",
    "LoginSession",
    "MemberName",
    "Membership",
    "Message",
    "ProvidedRole",
    "ProviderIdentity",
    "Quota",
    "RecoveryCode",
    "RefreshToken",
    "Role",
    "RolePermission",
    "RoleState",
    "Run",
    "Tenant",
    "TenantOwned",
    "TotpFactor",
    "Usage",
    "User",
    "instant",
    "now",
]
