"""Chains in a database."""

from typing import Any

import pytest

from hub.audit.reading import Filters, extent, pages
from hub.audit.trail import record
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant


async def make_tenant(database: Database, name: str = "acme") -> str:
    """A new tenant: its id."""
    tenant = Tenant(id=new_id("t"), name=name)
    async with database.write(EVERY_TENANT) as session:
        session.add(tenant)
    return tenant.id


async def write(database: Database, tenant_id: str, count: int, action: str = "user.do") -> None:
    """Add so many entries, each in a transaction of its own."""
    for number in range(count):
        async with database.write(tenant_id) as session:
            await record(session, tenant_id, action, details={"number": number})


async def entries(database: Database, tenant_id: str) -> list[dict[str, Any]]:
    """All of a tenant's, in order, as the wire has them."""
    through = (await extent(database, tenant_id)).last
    found: list[dict[str, Any]] = []
    async for page in pages(database, tenant_id, Filters(), through=through):
        found += page
    return found


@pytest.fixture
async def tenant(database: Database) -> str:
    return await make_tenant(database)
