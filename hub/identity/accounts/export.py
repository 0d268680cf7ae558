"""The export of what the hub holds of a user, a page at a time.

A page is of one section; the sections follow each other in the order of ``SECTIONS``, and each is
in the order of its keys, so that whoever asks page after page gets everything once, and nobody
holds more than a page of it. Hashes, secrets and tokens are no part of it: they are of no use but
to an attacker. Nor is the audit trail, which is the tenant's. Of other people there are ids, and
what they said in the user's conversations.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, or_
from sqlmodel import SQLModel, col, select

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.accounts.trails import tell
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, Scope
from hub.storage.tables import (
    ApiKey,
    ClientSession,
    Conversation,
    DisabledMember,
    Grant,
    Group,
    GroupMember,
    Invitation,
    LoginSession,
    MemberName,
    Membership,
    Message,
    ProvidedRole,
    ProviderIdentity,
    Quota,
    Run,
    TotpFactor,
    Usage,
    User,
)


class Section(NamedTuple):
    """A kind of what there is: the fields that are told, and which rows are a user's, by default
    those with the ``user_id``. ``key`` orders them, and no two of a user's have the same.
    ``personal`` is what is no matter of any tenant, and not told to one.
    """

    kind: type[SQLModel]
    fields: tuple[str, ...]
    of: Callable[[str], Any] | None = None
    personal: bool = False
    key: str = "id"

    def theirs(self, user_id: str) -> Any:
        """The condition of a user's rows."""
        if self.of is not None:
            return self.of(user_id)
        return col(self.kind.user_id) == user_id  # type: ignore[attr-defined]


def _messages_of(user_id: str) -> Any:
    own = select(Conversation.id).where(col(Conversation.owner_id) == user_id)
    return or_(col(Message.conversation_id).in_(own), col(Message.author_id) == user_id)


def _keys_of(user_id: str) -> Any:
    return select(ApiKey.id).where(col(ApiKey.user_id) == user_id)


def _shares_by(user_id: str) -> Any:
    """Those that they gave, and those of their conversations, whoever gave them."""
    own = select(Conversation.id).where(col(Conversation.owner_id) == user_id)
    return or_(col(Grant.granted_by) == user_id, col(Grant.resource_id).in_(own))


def _quotas_of(user_id: str) -> Any:
    kind, subject = col(Quota.subject_kind), col(Quota.subject_id)
    return or_(
        and_(kind == "user", subject == user_id),
        and_(kind == "key", subject.in_(_keys_of(user_id))),
    )


_SHARE: Final = (
    "id", "tenant_id", "resource_kind", "resource_id", "subject_kind", "subject_id", "access",
    "granted_by", "created_at", "updated_at", "expires_at",
)  # fmt: skip

SECTIONS: Final[Mapping[str, Section]] = {
    "profile": Section(
        User,
        ("id", "email", "name", "verified_at", "disabled_at", "created_at", "updated_at"),
        lambda user_id: col(User.id) == user_id,
    ),
    "membership": Section(
        Membership,
        ("id", "tenant_id", "role_id", "created_at", "expires_at"),
    ),
    "disabled": Section(
        DisabledMember,
        ("tenant_id", "disabled_at"),
        key="tenant_id",
    ),
    "name": Section(
        MemberName,
        ("tenant_id", "name"),
        key="tenant_id",
    ),
    "group": Section(
        Group,
        ("id", "tenant_id", "name"),
        lambda user_id: col(Group.id).in_(
            select(GroupMember.group_id).where(col(GroupMember.user_id) == user_id)
        ),
    ),
    "factor": Section(
        TotpFactor,
        ("created_at", "confirmed_at"),
        personal=True,
        key="user_id",
    ),
    "session": Section(
        LoginSession,
        (
            "id", "tenant_id", "device", "address", "created_at", "last_seen_at", "expires_at",
            "revoked_at",
        ),
    ),
    "client_session": Section(
        ClientSession,
        ("id", "tenant_id", "key", "channels", "created_at", "updated_at", "expires_at"),
    ),
    "key": Section(
        ApiKey,
        (
            "id", "tenant_id", "name", "scopes", "created_at", "last_used_at", "rotated_at",
            "expires_at", "revoked_at",
        ),
    ),
    "identity": Section(
        ProviderIdentity,
        ("id", "issuer", "subject", "created_at", "updated_at"),
        personal=True,
    ),
    "provided_role": Section(
        ProvidedRole,
        ("id", "tenant_id", "issuer", "role_id"),
        personal=True,
    ),
    "invitation": Section(
        Invitation,
        (
            "id", "tenant_id", "role_id", "invited_by", "created_at", "expires_at", "used_at",
        ),
        lambda user_id: or_(
            col(Invitation.invited_by) == user_id, col(Invitation.guest_id) == user_id
        ),
    ),
    "share_given": Section(Grant, _SHARE, _shares_by),
    "share_received": Section(
        Grant,
        _SHARE,
        lambda user_id: and_(
            col(Grant.subject_kind) == "user", col(Grant.subject_id) == user_id
        ),
    ),
    "conversation": Section(
        Conversation,
        ("id", "tenant_id", "title", "model", "instructions", "created_at", "updated_at"),
        lambda user_id: col(Conversation.owner_id) == user_id,
    ),
    "message": Section(
        Message,
        (
            "id", "tenant_id", "conversation_id", "role", "content", "author_id", "run_id",
            "complete", "created_at",
        ),
        _messages_of,
    ),
    "run": Section(
        Run,
        (
            "id", "tenant_id", "conversation_id", "message_id", "status", "model", "created_at",
            "started_at", "finished_at",
        ),
    ),
    "usage": Section(
        Usage,
        (
            "id", "tenant_id", "run_id", "key_id", "provider", "model", "input_tokens",
            "output_tokens", "cost", "created_at",
        ),
    ),
    "quota": Section(
        Quota,
        (
            "id", "tenant_id", "subject_kind", "subject_id", "name", "amount", "set_at", "window",
            "used", "reserved",
        ),
        _quotas_of,
    ),
}  # fmt: skip
"""Every section by its name, in the order in which they are told."""
_ORDER: Final = tuple(SECTIONS)


class Item(NamedTuple):
    """A row of a section: the fields that are told and have a value; instants are RFC 3339.
    ``cursor``: for what follows it.
    """

    section: str
    data: dict[str, Any]
    cursor: str


class Exports:
    """Tells what there is of a user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begun(self, tenant_id: str | None, user_id: str) -> None:
        """Note in the tenant's trail, or (None) in those of all tenants that the user is a member
        of, that an export was begun.
        """
        if tenant_id is None:
            async with self._database.write(EVERY_TENANT) as session:
                await tell(session, user_id, "user.export")
            return
        async with self._database.write(tenant_id) as session:
            await record(session, tenant_id, "user.export", resource=("user", user_id))

    async def page(
        self, user_id: str, tenant_id: str | None, cursor: str | None, limit: int
    ) -> Sequence[Item]:
        """Up to ``limit`` items after ``cursor``: in a tenant, or (None) in all that the user is a
        member of. It may be less, of one section; empty when there is no more.

        Raises Fault("invalid_params") for a cursor that is none.
        """
        name, after = _read(cursor)
        for each in _ORDER[_ORDER.index(name) :]:
            section = SECTIONS[each]
            if tenant_id is None or not section.personal:
                rows = await self._rows(section, user_id, tenant_id, after, limit)
                if rows:
                    return [_item(each, row) for row in rows]
            after = ""
        return []

    async def _rows(
        self, section: Section, user_id: str, tenant_id: str | None, after: str, limit: int
    ) -> Sequence[SQLModel]:
        key = getattr(section.kind, section.key)
        wanted = select(section.kind).where(section.theirs(user_id), key > after)
        wanted = wanted.order_by(key).limit(limit)
        scope: Scope = EVERY_TENANT if tenant_id is None else tenant_id
        if tenant_id is None and "tenant_id" in section.fields:
            # What is theirs where they are no member any more is not theirs to see.
            theirs = select(Membership.tenant_id).where(col(Membership.user_id) == user_id)
            wanted = wanted.where(section.kind.tenant_id.in_(theirs))  # type: ignore[attr-defined]
        async with self._database.read(scope) as session:
            return (await session.exec(wanted)).all()


def _read(cursor: str | None) -> tuple[str, str]:
    if cursor is None:
        return _ORDER[0], ""
    name, _, after = cursor.partition(":")
    if name not in SECTIONS:
        raise Fault("invalid_params", "cursor: not one of this list")
    return name, after


def _item(name: str, row: SQLModel) -> Item:
    section = SECTIONS[name]
    values = {field: getattr(row, field) for field in section.fields}
    data = {
        name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }
    return Item(name, data, f"{name}:{getattr(row, section.key)}")
