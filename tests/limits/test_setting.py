"""Who may set which quota: as far as their rank reaches, and no further than the operator gives."""

import asyncio

import pytest
from sqlmodel import select

from hub.faults import Fault
from hub.ids import new_id
from hub.limits.setting import Subject, set_quota
from hub.rbac.actor import Actor
from hub.storage.tables import AuditEntry, Membership, Quota
from tests.limits.conftest import Desk, MakeDesk


async def _member(desk: Desk, role: str) -> str:
    user_id = (await desk.colleague()).user_id
    if role == "member":
        return user_id
    async with desk.database.write(desk.actor.tenant_id) as session:
        row = Membership(
            id=new_id("ms"), tenant_id=desk.actor.tenant_id, user_id=user_id, role_id=role
        )
        session.add(row)
    return user_id


async def _set(desk: Desk, by: str | None, subject: Subject, limit: int | None = 5) -> None:
    async with desk.database.write(desk.actor.tenant_id) as session:
        actor = by and Actor(by, desk.actor.tenant_id, "", (), frozenset({"quota:set"}))
        await set_quota(session, desk.quotas.terms, subject, "runs", limit, by=actor or None)


async def test_a_quota_is_set_for_who_stands_below(desk: Desk) -> None:
    tenant_id = desk.actor.tenant_id
    ranked = {role: await _member(desk, role) for role in ("member", "operator", "admin", "owner")}
    other_admin = await _member(desk, "admin")
    may = {
        (by, whose)
        for by in ("operator", "admin", "owner")
        for whose in ("member", "operator", "admin", "owner")
        if await _may(desk, ranked[by], Subject(tenant_id, "user", ranked[whose]))
    }
    assert may == {
        ("admin", "member"),
        ("admin", "operator"),
        *{("owner", whose) for whose in ranked},
    }
    assert not await _may(desk, ranked["admin"], Subject(tenant_id, "user", other_admin))
    assert not await _may(desk, ranked["admin"], desk.tenant)
    assert await _may(desk, ranked["owner"], desk.tenant)


async def _may(desk: Desk, by: str, subject: Subject) -> bool:
    try:
        await _set(desk, by, subject)
    except Fault as fault:
        return fault.reason != "permission_denied"
    return True


async def test_what_the_operator_gives_a_tenant_is_not_the_tenants_to_raise(
    make_desk: MakeDesk,
) -> None:
    desk = await make_desk(HUB_QUOTA_TENANT="runs=10")
    me = desk.actor.user_id
    for too_much in (0, 11):
        with pytest.raises(Fault, match="at most 10"):
            await _set(desk, me, desk.tenant, too_much)
    await _set(desk, me, desk.tenant, 4)
    assert (await desk.standing("runs", desk.tenant)).limit == 4
    await _set(desk, me, desk.tenant, None)
    assert (await desk.standing("runs", desk.tenant)).limit == 10
    await _set(desk, None, desk.tenant, 100)
    for limit in (4, 200, None):
        with pytest.raises(Fault, match="operator"):
            await _set(desk, me, desk.tenant, limit)
    found = await desk.standing("runs", desk.tenant)
    assert (found.limit, found.source) == (100, "operator")
    await _set(desk, None, desk.tenant, None)
    await _set(desk, me, desk.tenant, 4)


async def test_a_quota_that_is_set_is_in_the_audit_trail_and_one_that_is_refused_is_not(
    desk: Desk,
) -> None:
    await _set(desk, desk.actor.user_id, desk.me, 5)
    admin = await _member(desk, "admin")
    with pytest.raises(Fault, match="below you"):
        await _set(desk, admin, desk.me, 6)
    async with desk.database.read(desk.actor.tenant_id) as session:
        entries = (await session.exec(select(AuditEntry))).all()
        quotas = (await session.exec(select(Quota))).all()
    assert [(entry.action, entry.resource_id, entry.details) for entry in entries] == [
        ("quota.set", f"user:{desk.actor.user_id}", '{"before":"default","limit":5,"quota":"runs"}')
    ]
    assert [quota.amount for quota in quotas] == [5]


async def test_two_that_set_the_same_quota_at_once_both_do(desk: Desk) -> None:
    await asyncio.gather(*(_set(desk, None, desk.me, limit) for limit in range(1, 11)))
    assert (await desk.standing("runs")).limit in range(1, 11)
