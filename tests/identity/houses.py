"""A tenant and its users, as the tests of roles need them."""

from datetime import datetime

from sqlalchemy import text
from sqlmodel import select

from hub.identity.access.assignments import Assignments
from hub.identity.access.groups import Groups
from hub.identity.access.roles import Roles
from hub.identity.access.standing import Member, look_up
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Conversation, Grant, Membership, Tenant, User


def share(place: Conversation, subject_id: str, subject_kind: str = "user") -> Grant:
    """That they may read it."""
    return Grant(
        id=new_id("sh"),
        tenant_id=place.tenant_id,
        subject_kind=subject_kind,
        subject_id=subject_id,
        resource_kind="conversation",
        resource_id=place.id,
        access="reader",
    )


class House:
    """A tenant. What was announced is in ``told``, in order."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.tenant_id = new_id("t")
        self.told: list[tuple[str, str]] = []
        self.roles = Roles(database, changed=self._changed)
        self.groups = Groups(database, changed=self._changed)
        self.assignments = Assignments(database, changed=self._changed)

    async def _changed(self, kind: str, id: str) -> None:
        self.told.append((kind, id))

    async def build(self) -> "House":
        async with self.database.write(EVERY_TENANT) as session:
            session.add(Tenant(id=self.tenant_id, name="house"))
        return self

    async def user(self, *role_ids: str, expires_at: datetime | None = None) -> Actor:
        """Somebody new with these roles."""
        id = new_id("u")
        async with self.database.write(EVERY_TENANT) as session:
            session.add(User(id=id, email=f"{id.lower()}@hub.example"))
            await session.flush()
            session.add_all(
                Membership(
                    id=new_id("ms"),
                    tenant_id=self.tenant_id,
                    user_id=id,
                    role_id=role_id,
                    expires_at=expires_at,
                )
                for role_id in role_ids
            )
        return await self.now(id)

    async def now(self, user_id: str) -> Actor:
        """Who they are at this moment; with no permission if they are no member."""
        key = Member(user_id, self.tenant_id)
        found = (await look_up(self.database, [key])).get(key)
        return found.actor if found else Actor(user_id, self.tenant_id, "", (), frozenset())

    async def roles_of(self, actor: Actor) -> tuple[str, ...]:
        return (await self.now(actor.user_id)).roles

    async def trail(self) -> list[tuple[str, str | None]]:
        """The actions that were recorded, and on what."""
        async with self.database.read(self.tenant_id) as session:
            rows = await session.exec(select(AuditEntry).order_by(AuditEntry.seq))  # type: ignore[arg-type]
            return [(row.action, row.resource_id) for row in rows.all()]


async def waiting(database: Database) -> int:
    """How many transactions of a PostgreSQL database wait for a lock."""
    async with database.read(EVERY_TENANT) as session:
        connection = await session.connection()
        found = await connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return int(found.scalar_one())
