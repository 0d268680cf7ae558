"""What belongs to a tenant and is asked for seldom, and whose it is: looked up each time."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sqlalchemy import or_
from sqlmodel import col, select

from hub.faults import Fault
from hub.operations import subjects
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource
from hub.storage.database import Database
from hub.storage.tables import ApiKey, Group, LoginSession, Membership, Role, User

Finder = Callable[[Database, str, str, Actor], Awaitable[Resource]]
"""``await find(database, kind, identifier, actor)``. Raises Fault not_found."""


async def _find_of_tenant(database: Database, kind: str, identifier: str, actor: Actor) -> Resource:
    """What belongs to the tenant at large; the built-in roles are of every tenant."""
    found: Any = select(Group.id).where(col(Group.id) == identifier)
    if kind == "role":
        theirs = or_(col(Role.tenant_id).is_(None), col(Role.tenant_id) == actor.tenant_id)
        found = select(Role.id).where(col(Role.id) == identifier, theirs)
    async with database.read(actor.tenant_id) as session:
        if (await session.exec(found)).first() is None:
            raise Fault("not_found")
    return Resource(kind, identifier, actor.tenant_id, None)


async def _find_program(database: Database, kind: str, identifier: str, actor: Actor) -> Resource:
    """An API key is its user's; a service account is its own."""
    async with database.read(actor.tenant_id) as session:
        if kind == "apikey":
            wanted = select(ApiKey.user_id).where(ApiKey.id == identifier)
        else:
            wanted = (
                select(User.id)
                .join(Membership, col(Membership.user_id) == User.id)
                .where(User.id == identifier, User.kind == "service")
            )
        owner_id = (await session.exec(wanted)).first()
    if owner_id is None:
        raise Fault("not_found")
    return Resource(kind, identifier, actor.tenant_id, owner_id)


async def _find_person(database: Database, kind: str, identifier: str, actor: Actor) -> Resource:
    """A member (``user``: the tenant's; ``account``: their own), or a login session there."""
    wanted = (
        select(LoginSession.user_id).where(col(LoginSession.id) == identifier)
        if kind == "session"
        else select(Membership.user_id).where(col(Membership.user_id) == identifier)
    )
    async with database.read(actor.tenant_id) as session:
        user_id = (await session.exec(wanted.limit(1))).first()
    if user_id is None:
        raise Fault("not_found")
    return Resource(kind, identifier, actor.tenant_id, None if kind == "user" else user_id)


FINDERS: Final[Mapping[str, Finder]] = {
    "role": _find_of_tenant,
    "group": _find_of_tenant,
    "apikey": _find_program,
    "service": _find_program,
    "user": _find_person,
    "account": _find_person,
    "session": _find_person,
    **dict.fromkeys(subjects.KINDS, subjects.find_subject),
}
"""How each kind is found."""
