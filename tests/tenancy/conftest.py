"""Tenants on a real database, with the trail and without a socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from sqlmodel import col, select

from hub.backplane.memory import MemoryBackplane
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.roles import compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Membership, Tenant, User
from hub.tenancy.members import Members
from hub.tenancy.tenants import Tenants

GRACE_DAYS = 30


@dataclass
class Told:
    """What the authority was told of."""

    changes: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, kind: str, id: str) -> None:
        self.changes.append((kind, id))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def tenants(database: Database, told: Told) -> Tenants:
    return Tenants(database, grace_days=GRACE_DAYS, least_trail_days=30, changed=told)


@pytest.fixture
def members(database: Database, told: Told) -> Members:
    return Members(database, changed=told)


@pytest.fixture
async def backplane() -> AsyncIterator[MemoryBackplane]:
    backplane = MemoryBackplane()
    await backplane.start()
    yield backplane
    await backplane.close()


Joined = Callable[..., Awaitable[Actor]]


@pytest.fixture
def joined(database: Database) -> Joined:
    """``await joined(tenant_id, role, user_id=…)``: a member, new or known, as an actor."""

    async def join(tenant_id: str, role: str = "member", user_id: str | None = None) -> Actor:
        known = user_id or new_id("u")
        async with database.write(EVERY_TENANT) as session:
            if user_id is None:
                session.add(User(id=known, email=f"{known.lower()}@hub.example"))
                await session.flush()
            session.add(
                Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=known, role_id=role)
            )
        return Actor(known, tenant_id, "", (role,), compile_roles((role,)))

    return join


@pytest.fixture
async def operator(database: Database, joined: Joined) -> Actor:
    """An owner of the tenant that the hub began with."""
    return await joined(await founded(database, "default"), "owner")


@pytest.fixture
async def owner(database: Database, operator: Actor, joined: Joined) -> Actor:
    """An owner of another tenant, which is called ``acme``."""
    return await joined(await founded(database, "acme"), "owner")


async def founded(database: Database, name: str) -> str:
    """A new tenant: its id."""
    tenant = Tenant(id=new_id("t"), name=name)
    async with database.write(EVERY_TENANT) as session:
        session.add(tenant)
    return tenant.id


async def trail(database: Database, tenant_id: str) -> list[AuditEntry]:
    """The tenant's audit entries, in order."""
    async with database.read(tenant_id) as session:
        rows = await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))
        return list(rows.all())
