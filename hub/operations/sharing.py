"""Sharing conversations: with which user or group, as what, until when."""

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from pydantic import AwareDatetime, EmailStr, Field, model_validator
from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.disabled import not_disabled
from hub.identity.access.holdings import lives
from hub.identity.access.names import name_in
from hub.ids import new_id
from hub.operations.call import Call
from hub.operations.grants import GROUP, KIND, USER, in_force
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.shapes import Id, Listing, PageById
from hub.rbac.decision import Resource, decide
from hub.rbac.sharing import CARRIES, Access
from hub.storage.tables import Conversation, Grant, Group, Membership, User, now
from hub.telemetry.logs import log_failure

MAX_SHARES: Final = 100
"""With how many a conversation can be shared at a time."""
LONGEST: Final = timedelta(days=3650)

_GUARDS = ("conversation", "conversation_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/conversations/{conversation_id}/shares"


class NewShare(Params):
    conversation_id: Id
    user_id: Id | None = Field(
        None, description="The colleague; or else their `email`; or else a group."
    )
    email: EmailStr | None = Field(None, max_length=320)
    group_id: Id | None = Field(
        None,
        description="All who are in this group, as long as they are; `group.names` lists them.",
    )
    access: Access = Field(
        description="`reader`: reads and follows it. `writer`: also sends messages and cancels "
        "runs. `approver`: may do no more than a reader until there are tools that ask for "
        "approval, whose calls there they will approve."
    )
    expires_at: AwareDatetime | None = Field(
        None, description="When it ends by itself, at most ten years from now; none: it does not."
    )

    @model_validator(mode="after")
    def _name_one(self) -> "NewShare":
        if [self.user_id, self.email, self.group_id].count(None) != 2:
            raise ValueError(
                "name a colleague by user_id or by email, or a group by group_id, one of the three"
            )
        return self


class OneShare(Params):
    conversation_id: Id
    user_id: Id | None = Field(None, description="The colleague; or else a group.")
    group_id: Id | None = None

    @model_validator(mode="after")
    def _name_one(self) -> "OneShare":
        if (self.user_id is None) == (self.group_id is None):
            raise ValueError("name a colleague by user_id or a group by group_id, one of the two")
        return self


class SharesOf(PageById):
    conversation_id: Id


class Share(Result):
    """That a conversation is shared with a user, or with all who are in a group."""

    id: Id
    conversation_id: Id
    user_id: Id | None = Field(None, description="With whom; left out for a group.")
    group_id: Id | None = Field(None, description="With which group; left out for a user.")
    name: str | None = Field(None, description="The name of the user or of the group.")
    access: Access
    granted_by: Id | None = Field(None, description="Who shared it, or changed that last.")
    expires_at: datetime | None = Field(None, description="When it ends by itself.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Grant, name: str | None) -> "Share":
        return cls(
            id=row.id,
            conversation_id=row.resource_id,
            user_id=row.subject_id if row.subject_kind == USER else None,
            group_id=row.subject_id if row.subject_kind == GROUP else None,
            name=name,
            access=row.access,
            granted_by=row.granted_by,
            expires_at=row.expires_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class _Subject(NamedTuple):
    """With whom it is shared; in the audit trail ``said``."""

    kind: str
    id: str
    name: str | None = None

    def has(self, grant: Grant) -> bool:
        return (grant.subject_kind, grant.subject_id) == (self.kind, self.id)

    @property
    def said(self) -> dict[str, str]:
        return {f"{self.kind}_id": self.id}


@operation(
    "conversation.share",
    permission="conversation:share",
    kind="write",
    http=Http("POST", _PATH),
    guards=_GUARDS,
    ordered_by="conversation_id",
    faults=(*_FAULTS, "conflict"),
)
async def share(call: Call, params: NewShare) -> Share:
    """Share a conversation with a colleague or a group, or change how it is shared with them.

    What the access carries they can do if they hold the permission for it themselves: a viewer who
    is made a `writer` sends nothing. Nobody grants more than they may do there themselves. Who is
    no active member of the tenant answers as who does not exist, and so do you yourself and the
    owner; a group of another tenant answers as one that does not exist. With a group it is shared
    with who is in it at each moment; of several shares that reach somebody the strongest counts. A
    conversation is shared with 100 users and groups at most; one more is a `conflict`.
    """
    actor = call.actor
    if params.expires_at is not None:
        _check_end(params.expires_at)
    async with call.services.database.write(actor.tenant_id) as session:
        place = await _held(session, call, params.conversation_id)
        if not all(decide(actor, each, place).allowed for each in CARRIES[params.access]):
            raise Fault("permission_denied", "Nobody grants more than they may do there.")
        subject = await _subject(session, params, place.tenant_id, (actor.user_id, place.owner_id))
        grants = await _in_force(session, params.conversation_id)
        row = next(filter(subject.has, grants), None)
        before = None if row is None else row.access
        if row is None:
            if len(grants) >= MAX_SHARES:
                raise Fault(
                    "conflict", f"It is shared with {MAX_SHARES} already, the most there are."
                )
            row = Grant(
                id=new_id("sh"),
                tenant_id=actor.tenant_id,
                subject_kind=subject.kind,
                subject_id=subject.id,
                resource_kind=KIND,
                resource_id=params.conversation_id,
                access=params.access,
            )
        row.access, row.expires_at = params.access, params.expires_at
        row.granted_by, row.updated_at = actor.user_id, now()
        session.add(row)
        await record(
            session,
            actor.tenant_id,
            "conversation.share",
            resource=(KIND, params.conversation_id),
            details={
                **subject.said,
                "access": row.access,
                "expires_at": row.expires_at.isoformat() if row.expires_at else None,
                "before": before,
            },
        )
    await _tell(call, params.conversation_id)
    return Share.of(row, subject.name)


@operation(
    "conversation.unshare",
    permission="conversation:share",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    ordered_by="conversation_id",
    faults=_FAULTS,
)
async def unshare(call: Call, params: OneShare) -> Done:
    """Share a conversation with a colleague or a group no longer.

    What they followed of it and the runs that they asked for there end within a second, unless
    another share reaches them. With whom it is not shared answers `not_found`.
    """
    if params.group_id is not None:
        subject = _Subject(GROUP, params.group_id)
    else:
        subject = _Subject(USER, str(params.user_id))
    async with call.services.database.write(call.actor.tenant_id) as session:
        await _held(session, call, params.conversation_id)
        grants = await _in_force(session, params.conversation_id)
        row = next(filter(subject.has, grants), None)
        if row is None:
            raise Fault("not_found", "It is not shared with them.")
        await session.delete(row)
        await record(
            session,
            call.actor.tenant_id,
            "conversation.unshare",
            resource=(KIND, params.conversation_id),
            details={**subject.said, "access": row.access},
        )
    await _tell(call, params.conversation_id)
    return Done()


@operation(
    "conversation.shares",
    permission="conversation:share",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def listing(call: Call, params: SharesOf) -> Listing[Share]:
    """List with whom a conversation is shared now, the oldest first."""
    name = func.coalesce(name_in(call.actor.tenant_id), Group.name)
    statement = (
        select(Grant, name)
        .join(User, _is(USER, col(User.id)), isouter=True)
        .join(Group, _is(GROUP, col(Group.id)), isouter=True)
        .where(_of(params.conversation_id), in_force(), or_(_there(User.id), _there(Group.id)))
        .order_by(col(Grant.id))
        .limit(params.limit + 1)
    )
    if params.cursor is not None:
        statement = statement.where(col(Grant.id) > params.cursor)
    async with call.services.database.read(call.actor.tenant_id) as session:
        rows = (await session.exec(statement)).all()
    return Listing.page(
        [Share.of(row, name) for row, name in rows], params.limit, lambda item: item.id
    )


def _of(conversation_id: str) -> ColumnElement[bool]:
    """The condition of a grant that it is on this conversation."""
    return and_(col(Grant.resource_kind) == KIND, col(Grant.resource_id) == conversation_id)


def _is(kind: str, id: Any) -> ColumnElement[bool]:
    """The condition of a grant that it is to the one with this id."""
    return and_(col(Grant.subject_kind) == kind, col(Grant.subject_id) == id)


def _there(id: str) -> ColumnElement[bool]:
    return col(id).is_not(None)


def _check_end(at: datetime) -> None:
    """Raises Fault invalid_params."""
    moment = now()
    if not moment < at <= moment + LONGEST:
        raise Fault("invalid_params", "expires_at: in the future, at most ten years from now.")


async def _held(session: AsyncSession, call: Call, conversation_id: str) -> Resource:
    """The conversation, locked: its shares change one after the other, and may still be changed by
    the caller. Raises Fault not_found, permission_denied.
    """
    row = (
        await session.exec(
            select(Conversation)
            .where(col(Conversation.id) == conversation_id)
            .with_for_update(key_share=True)
        )
    ).first()
    if row is None:
        raise Fault("not_found")
    place = Resource(KIND, row.id, row.tenant_id, row.owner_id)
    verdict = decide(call.actor, "conversation:share", place)
    if not verdict.allowed:
        raise Fault(verdict.fault)
    return place


async def _subject(
    session: AsyncSession, params: NewShare, tenant_id: str, never: tuple[str, str | None]
) -> _Subject:
    """With whom it is to be shared in the tenant. ``never``: the ids of users that it is with
    anyway.

    Raises Fault not_found.
    """
    if params.group_id is not None:
        # Locked against being deleted meanwhile, which would leave a grant to nobody.
        of = select(Group).where(col(Group.id) == params.group_id)
        group = (await session.exec(of.with_for_update(read=True, key_share=True))).first()
        if group is None:
            raise Fault("not_found", "There is no such group to share it with.")
        return _Subject(GROUP, group.id, group.name)
    colleague = await _colleague(session, params, tenant_id)
    if colleague is None or colleague.id in never:
        raise Fault("not_found", "There is no such colleague to share it with.")
    return colleague


async def _colleague(session: AsyncSession, params: NewShare, tenant_id: str) -> _Subject | None:
    """Who is meant, if they are an active member of the tenant, which is that of the session."""
    if params.user_id is not None:
        meant = col(User.id) == params.user_id
    else:
        meant = col(User.email) == str(params.email).lower()
    statement = (
        select(User.id, name_in(tenant_id))
        .join(Membership, col(Membership.user_id) == col(User.id))
        .where(meant, not_disabled(), lives(now()))
        .limit(1)
        # Locked against being removed meanwhile: what is shared with a member ends with them.
        .with_for_update(read=True, key_share=True, of=Membership)
    )
    found = (await session.exec(statement)).first()
    return None if found is None else _Subject(USER, *found)


async def _in_force(session: AsyncSession, conversation_id: str) -> list[Grant]:
    """The grants on a conversation; those that have ended are deleted."""
    rows = (await session.exec(select(Grant).where(_of(conversation_id)))).all()
    moment = now()
    left = []
    for row in rows:
        if row.expires_at is None or row.expires_at > moment:
            left.append(row)
        else:
            await session.delete(row)
    await session.flush()  # before one of the same subject is added
    return left


async def _tell(call: Call, conversation_id: str) -> None:
    try:
        await call.services.authority.changed(KIND, conversation_id)
    except Fault as fault:
        log_failure(fault)  # it is done all the same; other nodes find out
