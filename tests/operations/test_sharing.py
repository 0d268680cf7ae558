"""With whom something can be shared at this moment, whatever happens to them meanwhile."""

import asyncio

from sqlalchemy import delete
from sqlmodel import col

from hub.ids import new_id
from hub.operations.sharing import NewShare, _colleague
from hub.storage.database import Database
from hub.storage.tables import Membership, User
from tests.identity.houses import House


async def test_nothing_is_shared_with_who_is_being_removed(database: Database) -> None:
    house = await House(database).build()
    bob = await house.user("member")
    share = NewShare(conversation_id=new_id("c"), user_id=bob.user_id, access="reader")

    async def found() -> User | None:
        async with database.write(house.tenant_id) as session:
            return await _colleague(session, share)

    assert await found() is not None
    async with database.write(house.tenant_id) as session:
        await session.exec(delete(Membership).where(col(Membership.user_id) == bob.user_id))
        looking = asyncio.create_task(found())
        done, _ = await asyncio.wait({looking}, timeout=0.2)
        assert not done, "whether they stay is not known yet"
    assert await looking is None
