"""With whom something can be shared at this moment, whatever happens to them meanwhile."""

import asyncio

from sqlalchemy import delete
from sqlmodel import col, select

from hub.identity.keys.service_accounts import ServiceAccounts
from hub.ids import new_id
from hub.operations.sharing import NewShare, _colleague
from hub.storage.database import Database
from hub.storage.tables import Conversation, Grant, Membership
from tests.identity.houses import House, waiting
from tests.identity.houses import share as shared
from tests.interaction.drivers import eventually


async def test_nothing_is_shared_with_who_is_being_removed(database: Database) -> None:
    house = await House(database).build()
    bob = await house.user("member")
    share = NewShare(conversation_id=new_id("c"), user_id=bob.user_id, access="reader")

    async def found() -> object:
        async with database.write(house.tenant_id) as session:
            return await _colleague(session, share, house.tenant_id)

    assert await found() is not None
    async with database.write(house.tenant_id) as session:
        await session.exec(delete(Membership).where(col(Membership.user_id) == bob.user_id))
        looking = asyncio.create_task(found())
        done, _ = await asyncio.wait({looking}, timeout=0.2)
        assert not done, "whether they stay is not known yet"
    assert await looking is None


async def test_what_is_shared_with_a_service_as_it_is_deleted_ends_with_it(
    database: Database,
) -> None:
    house = await House(database).build()
    owner = await house.user("owner")
    services = ServiceAccounts(database)
    bot = (await services.create(owner, house.tenant_id, "bot")).user.id
    place = Conversation(id=new_id("c"), tenant_id=house.tenant_id, owner_id=owner.user_id)
    share = NewShare(conversation_id=place.id, user_id=bot, access="reader")
    async with database.write(house.tenant_id) as session:
        session.add(place)
        assert await _colleague(session, share, house.tenant_id) is not None
        deleting = asyncio.create_task(services.delete(owner, house.tenant_id, bot))

        async def waits() -> bool:
            return database.embedded or await waiting(database) > 0

        await eventually(waits)
        session.add(shared(place, bot))
    await deleting
    async with database.read(house.tenant_id) as session:
        assert (await session.exec(select(Grant))).all() == []
