"""When its grace is over a tenant goes with all that it had, and takes nothing of others along."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel, col, select, update

from hub.audit.trail import record
from hub.backplane.interface import LeaseLost
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    ClientSession,
    Conversation,
    Invitation,
    LoginLink,
    LoginSession,
    MemberName,
    Message,
    RefreshToken,
    Role,
    RolePermission,
    Run,
    Tenant,
    Usage,
    User,
    now,
)
from hub.tenancy import purge as purging
from hub.tenancy.belongings import of_tenant, of_user
from hub.tenancy.purge import CHORE, Purge
from hub.tenancy.tenants import Tenants
from tests.tenancy.conftest import Joined, founded, trail

SOON = timedelta(days=1)


async def furnish(database: Database, who: Actor, messages: int = 3) -> None:
    """Give a tenant a row of every kind."""
    tenant_id, user_id = who.tenant_id, who.user_id
    conversation, run, login = new_id("c"), new_id("r"), new_id("s")
    of: dict[str, Any] = {"tenant_id": tenant_id}
    roles = [
        Role(id=new_id("ro"), name="a", rank=5, inherits="viewer", **of),
        Role(id=new_id("ro"), name="b", rank=6, **of),
    ]
    roles[1].inherits = roles[0].id
    ends = now() + SOON
    rows: list[list[Any]] = [
        [Conversation(id=conversation, owner_id=user_id, **of), *roles[:1]],
        roles[1:],
        [RolePermission(role_id=role.id, permission="run:read") for role in roles],
        [
            Message(
                id=new_id("m"), conversation_id=conversation, turn=turn, step=0, role="user",
                content="hello", author_id=user_id, **of,
            )
            for turn in range(messages)
        ],
        [
            Run(
                id=run, conversation_id=conversation, user_id=user_id, message_id="m", turn=0,
                status="succeeded", announced=True, **of,
            ),
            LoginSession(id=login, user_id=user_id, expires_at=ends, **of),
            LoginLink(code_hash=new_id("x"), user_id=user_id, expires_at=ends, **of),
            Invitation(
                code_hash=new_id("x"), role_id=roles[0].id, invited_by=user_id, expires_at=ends,
                **of,
            ),
            ClientSession(id=new_id("p"), user_id=user_id, key="k", expires_at=ends, **of),
            MemberName(user_id=user_id, name="the boss", **of),
        ],
        [
            Usage(
                id=new_id("us"), run_id=run, user_id=user_id, provider="p", model="m",
                input_tokens=1, output_tokens=1, **of,
            ),
            RefreshToken(token_hash=new_id("x"), session_id=login, expires_at=ends, **of),
        ],
    ]  # fmt: skip
    async with database.write(EVERY_TENANT) as session:
        for together in rows:
            session.add_all(together)
            await session.flush()
        await record(session, tenant_id, "test.furnish")


async def left(database: Database, tenant_id: str) -> dict[str, int]:
    """How many rows of the tenant each table has; those without any are left out."""
    counts = {}
    async with database.read(EVERY_TENANT) as session:
        connection = await session.connection()
        for table in SQLModel.metadata.sorted_tables:
            key = "id" if table.name == "tenants" else "tenant_id"
            if key in table.columns:
                statement = text(f"SELECT count(*) FROM {table.name} WHERE {key} = :id")
                found = (await connection.execute(statement, {"id": tenant_id})).scalar()
                if found:
                    counts[table.name] = found
    return counts


async def delete_and_wait(database: Database, tenants: Tenants, who: Actor) -> None:
    """Delete the tenant ``acme``, and let the grace be over."""
    await tenants.delete(who.tenant_id, "acme", by=None)
    async with database.write(EVERY_TENANT) as session:
        of = col(Tenant.id) == who.tenant_id
        await session.exec(update(Tenant).where(of).values(purge_at=now()))


async def user(database: Database, user_id: str) -> User | None:
    async with database.read(EVERY_TENANT) as session:
        return await session.get(User, user_id)


async def test_all_of_the_tenant_goes_and_nothing_of_another(
    *,
    database: Database,
    backplane: MemoryBackplane,
    tenants: Tenants,
    operator: Actor,
    owner: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purging, "BATCH", 10)
    await furnish(database, owner, messages=25)
    await furnish(database, operator)
    before = await left(database, operator.tenant_id)
    assert len(await left(database, owner.tenant_id)) == len(before)
    assert len(before) >= 12
    async with database.read(EVERY_TENANT) as session:
        rows = await session.exec(select(Conversation.tenant_id, Conversation.id))
        channels = {tenant_id: f"conversation:{id}" for tenant_id, id in rows.all()}
    for channel in channels.values():
        await backplane.append(channel, b"{}")
    await delete_and_wait(database, tenants, owner)
    assert await Purge(database, backplane).once() == [owner.tenant_id]
    assert await left(database, owner.tenant_id) == {}
    assert (await backplane.read(channels[owner.tenant_id], 0)).last == 0
    assert (await backplane.read(channels[operator.tenant_id], 0)).last == 1
    after = await left(database, operator.tenant_id)
    # Beside two entries: of the deletion, and of the purge.
    assert after == before | {"audit_entries": before["audit_entries"] + 2}
    async with database.read(EVERY_TENANT) as session:
        kept = (await session.exec(select(RolePermission.role_id))).all()
        roles = (await session.exec(select(Role.id))).all()
    assert set(kept) <= set(roles)
    last = (await trail(database, operator.tenant_id))[-1]
    assert (last.action, last.resource_id) == ("tenant.purge", owner.tenant_id)
    assert '"users":1' in last.details


async def test_users_go_with_their_last_tenant_alone(
    *,
    database: Database,
    backplane: MemoryBackplane,
    tenants: Tenants,
    operator: Actor,
    owner: Actor,
    joined: Joined,
) -> None:
    both = await joined(owner.tenant_id)
    await joined(operator.tenant_id, "member", both.user_id)
    await delete_and_wait(database, tenants, owner)
    await Purge(database, backplane).once()
    assert await user(database, owner.user_id) is None
    assert await user(database, both.user_id) is not None
    assert await user(database, operator.user_id) is not None


async def test_who_has_spoken_in_a_tenant_that_they_left_stays_without_a_name(
    database: Database, backplane: MemoryBackplane, tenants: Tenants, operator: Actor, owner: Actor
) -> None:
    guest = Actor(owner.user_id, operator.tenant_id, "", (), frozenset())
    await furnish(database, guest)
    await delete_and_wait(database, tenants, owner)
    await Purge(database, backplane).once()
    kept = await user(database, owner.user_id)
    assert kept is not None
    assert kept.email == f"{owner.user_id.lower()}@deleted.invalid"
    assert (kept.name, kept.password_hash) == (None, None)
    assert kept.disabled_at is not None
    there = await left(database, operator.tenant_id)
    assert there["messages"] == 3
    assert "login_sessions" not in there
    assert "refresh_tokens" not in there


async def test_within_the_grace_nothing_goes(
    database: Database, backplane: MemoryBackplane, tenants: Tenants, owner: Actor
) -> None:
    await furnish(database, owner)
    before = await left(database, owner.tenant_id)
    await tenants.delete(owner.tenant_id, "acme", by=None)
    assert await Purge(database, backplane).once() == []
    after = await left(database, owner.tenant_id)
    assert after.keys() == before.keys()


async def test_one_node_at_a_time_purges(
    database: Database, tenants: Tenants, owner: Actor
) -> None:
    shared = MemoryShared()
    here, there = MemoryBackplane(shared), MemoryBackplane(shared)
    await delete_and_wait(database, tenants, owner)
    lease = await there.acquire(CHORE, 30)
    assert lease is not None
    assert await Purge(database, here).once() == []
    await there.release(lease)
    both = await asyncio.gather(Purge(database, here).once(), Purge(database, there).once())
    assert sorted(both, key=len) == [[], [owner.tenant_id]]


async def test_what_one_node_began_another_ends(
    database: Database, tenants: Tenants, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost after some batches, as when the node dies."""
    monkeypatch.setattr(purging, "BATCH", 10)
    await furnish(database, owner, messages=25)
    await delete_and_wait(database, tenants, owner)

    class Failing(MemoryBackplane):
        renewals = 0

        async def renew(self, lease: Any, ttl_s: float) -> None:
            self.renewals += 1
            if self.renewals > 6:
                raise LeaseLost(lease.name)

    assert await Purge(database, Failing()).once() == []
    assert await left(database, owner.tenant_id) != {}
    assert await Purge(database, MemoryBackplane()).once() == [owner.tenant_id]
    assert await left(database, owner.tenant_id) == {}
    assert await user(database, owner.user_id) is None


async def test_the_sweep_purges_by_itself(
    database: Database, backplane: MemoryBackplane, tenants: Tenants, owner: Actor
) -> None:
    await delete_and_wait(database, tenants, owner)
    purge = Purge(database, backplane, sweep_s=0.01)
    await purge.start()
    async with asyncio.timeout(10):
        while await left(database, owner.tenant_id):  # noqa: ASYNC110  # a row has no event
            await asyncio.sleep(0.01)
    await purge.close()


async def test_the_tenant_that_the_hub_began_with_is_never_purged(
    database: Database, backplane: MemoryBackplane, operator: Actor
) -> None:
    async with database.write(EVERY_TENANT) as session:
        of = col(Tenant.id) == operator.tenant_id
        await session.exec(update(Tenant).where(of).values(deleted_at=now(), purge_at=now()))
    await founded(database, "second")
    assert await Purge(database, backplane).once() == []
    assert await left(database, operator.tenant_id) != {}


def test_every_table_of_tenants_is_purged_after_those_that_refer_to_it() -> None:
    tables = [part.kind.__table__ for part in of_tenant("t_1")]
    assert {t for t in SQLModel.metadata.sorted_tables if "tenant_id" in t.columns} <= set(tables)
    assert "role_permissions" in {table.name for table in tables}
    for at, table in enumerate(tables):
        for key in table.foreign_keys:
            if key.column.table in tables and key.column.table is not table:
                assert tables.index(key.column.table) > at, (table.name, key.column.table.name)


def test_nothing_of_a_tenant_goes_with_a_user() -> None:
    assert [p for p in of_user("u_1") if "tenant_id" in p.kind.__table__.columns] == []
