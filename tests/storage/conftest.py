"""Two tenants with a conversation each."""

from dataclasses import dataclass

import pytest

from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Message, Tenant, User


@dataclass(frozen=True)
class House:
    """A tenant, its one user, that user's conversation and the message in it."""

    tenant: str
    user: str
    conversation: str
    message: str


async def build(database: Database, name: str) -> House:
    house = House(new_id("t"), new_id("u"), new_id("c"), new_id("m"))
    async with database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=house.tenant, name=name))
        session.add(User(id=house.user, email=f"{house.user.lower()}@hub.example"))
        await session.flush()
        session.add(
            Conversation(
                id=house.conversation, tenant_id=house.tenant, owner_id=house.user, title=name
            )
        )
        await session.flush()
        session.add(message(house, house.message, turn=1))
    return house


def message(
    house: House,
    id: str,
    turn: int,
    content: str = "hello",
    conversation_id: str | None = None,
) -> Message:
    return Message(
        id=id,
        tenant_id=house.tenant,
        conversation_id=conversation_id or house.conversation,
        author_id=house.user,
        turn=turn,
        step=0,
        role="user",
        content=content,
    )


@pytest.fixture
async def ours(database: Database) -> House:
    return await build(database, "ours")


@pytest.fixture
async def theirs(database: Database) -> House:
    return await build(database, "theirs")
