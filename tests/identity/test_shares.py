"""Shares end with the membership of the one they were for."""

import pytest
from sqlmodel import select

from hub.identity.shares import forget_shares
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Grant, Tenant, User


async def _shared(database: Database, users: list[str]) -> list[str]:
    """Two tenants, each with a conversation that is shared with all of these users."""
    tenants = [new_id("t") for _ in range(2)]
    async with database.write(EVERY_TENANT) as session:
        session.add_all(User(id=user, email=f"{user}@hub.example".lower()) for user in users)
        session.add_all(Tenant(id=tenant, name=tenant) for tenant in tenants)
        await session.flush()
        places = [
            Conversation(id=new_id("c"), tenant_id=tenant, owner_id=users[0]) for tenant in tenants
        ]
        session.add_all(places)
        await session.flush()
        session.add_all(
            Grant(
                id=new_id("sh"),
                tenant_id=place.tenant_id,
                subject_kind="user",
                subject_id=user,
                resource_kind="conversation",
                resource_id=place.id,
                access="reader",
            )
            for place in places
            for user in users
        )
    return tenants


@pytest.mark.parametrize("everywhere", [True, False])
async def test_what_was_shared_with_somebody_is_forgotten_and_with_nobody_else(
    database: Database, everywhere: bool
) -> None:
    leaver, stayer = users = [new_id("u") for _ in range(2)]
    here, there = await _shared(database, users)
    async with database.write(EVERY_TENANT) as session:
        await forget_shares(session, leaver, None if everywhere else here)
    async with database.read(EVERY_TENANT) as session:
        left = {
            (row.tenant_id, row.subject_id) for row in (await session.exec(select(Grant))).all()
        }
    kept = {(here, stayer), (there, stayer)}
    assert left == (kept if everywhere else kept | {(there, leaver)})
