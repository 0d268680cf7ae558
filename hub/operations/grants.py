"""Whose conversations are and with whom they are shared, as the database says it."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import ColumnElement, and_, bindparam, or_, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.rbac.actor import Actor
from hub.rbac.sharing import Access, Granted, given_to
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import Conversation, Grant, now

KIND: Final = "conversation"
"""What is shared: the ``resource_kind`` of its grants."""
USER: Final = "user"
"""The ``subject_kind`` of a grant to one user."""
GROUP: Final = "group"
"""The ``subject_kind`` of a grant to all who are in a group."""

_NOBODY: Final[Mapping[str, Granted]] = MappingProxyType({})

_EVERY: Final[Any] = (
    select(  # type: ignore[call-overload]
        Conversation.id,
        Conversation.tenant_id,
        Conversation.owner_id,
        Grant.subject_id,
        Grant.access,
        Grant.expires_at,
    )
    .join(
        Grant,
        and_(
            col(Grant.resource_kind) == KIND,
            col(Grant.resource_id) == col(Conversation.id),
        ),
        isouter=True,
    )
    .where(col(Conversation.id).in_(bindparam("ids", expanding=True)))
)
_FOUND: Final[Any] = prebuilt(_EVERY)
_FOUND_THERE: Final[Any] = prebuilt(
    # Not instead of the ids alone, by which an index finds them.
    _EVERY.where(
        tuple_(col(Conversation.id), col(Conversation.tenant_id)).in_(
            bindparam("places", expanding=True)
        )
    )
)


class Whose(NamedTuple):
    """The tenant and the owner of a conversation, and what is granted on it, by the id of the user
    or the group, no two of which are the same.
    """

    tenant_id: str
    owner_id: str
    granted: Mapping[str, Granted] = _NOBODY

    def next_end(self) -> datetime | None:
        """When the next of the grants ends; None if none does."""
        ends = [granted.until for granted in self.granted.values() if granted.until is not None]
        return min(ends, default=None)

    def at(self, moment: datetime) -> "Whose":
        """Without the grants that have ended by then."""
        left = {
            subject_id: granted
            for subject_id, granted in self.granted.items()
            if granted.until is None or granted.until > moment
        }
        return self._replace(granted=left or _NOBODY)


async def look_up(session: AsyncSession, ids: Collection[str]) -> dict[str, Whose]:
    """Each of these conversations that is in the session's scope, in one query."""
    return _read((await session.exec(_FOUND, params={"ids": padded(ids)})).all())


async def look_up_there(
    session: AsyncSession, places: Collection[tuple[str, str]]
) -> dict[str, Whose]:
    """Each of these conversations that is in the tenant beside it, in one query. Of one that is in
    another nothing is read, so that it takes no longer than one that is nowhere.
    """
    params = {"ids": padded([id for id, _ in places]), "places": padded(places)}
    return _read((await session.exec(_FOUND_THERE, params=params)).all())


def _read(rows: Iterable[Any]) -> dict[str, Whose]:
    found: dict[str, Whose] = {}
    granted: dict[str, dict[str, Granted]] = {}
    for id, tenant_id, owner_id, subject_id, access, expires_at in rows:
        found[id] = Whose(tenant_id, owner_id)
        if subject_id is not None:
            granted.setdefault(id, {})[subject_id] = Granted(cast("Access", access), expires_at)
    moment = now()
    for id, given in granted.items():
        found[id] = found[id]._replace(granted=given).at(moment)
    return found


def of(granted: Mapping[str, Granted], actor: Actor) -> tuple[Granted, ...]:
    """What of it is this actor's at this moment, the strongest first."""
    mine = given_to(actor, granted)
    for each in mine:
        if each.until is not None:
            moment = now()
            return tuple(each for each in mine if each.until is None or each.until > moment)
    return mine


def in_force() -> ColumnElement[bool]:
    """The condition of a grant that it has not ended."""
    return or_(col(Grant.expires_at).is_(None), col(Grant.expires_at) > now())


def reaching(actor: Actor) -> ColumnElement[bool]:
    """The condition of a grant that it gives this actor something now, itself or by a group."""
    subject = and_(col(Grant.subject_kind) == USER, col(Grant.subject_id) == actor.user_id)
    if actor.groups:
        groups = col(Grant.subject_id).in_(sorted(actor.groups))
        subject = or_(subject, and_(col(Grant.subject_kind) == GROUP, groups))
    here = and_(col(Grant.tenant_id) == actor.tenant_id, col(Grant.resource_kind) == KIND)
    return and_(here, subject, in_force())
