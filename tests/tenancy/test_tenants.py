"""The life of a tenant: made, settled, suspended, resumed, deleted, restored; and who is told."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from hub.audit.origin import Origin, acting
from hub.faults import Fault
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant, now
from hub.storage.tenant_settings import TenantSettings, parsed, settings_of
from hub.tenancy.tenants import Tenants, is_name, state_of
from tests.tenancy.conftest import GRACE_DAYS, Told, founded, trail


async def refused(work: object) -> str:
    with pytest.raises(Fault) as caught:
        await work  # type: ignore[misc]
    return caught.value.reason


async def test_a_tenant_is_made_with_an_invitation_of_its_owner(
    database: Database, tenants: Tenants, operator: Actor
) -> None:
    settings = TenantSettings(display_name="Acme")
    made, code = await tenants.create("acme", by=operator, owner="a@hub.example", settings=settings)
    assert code is not None
    assert state_of(made) == "active"
    assert parsed((await tenants.get(made.id)).settings) == settings
    assert [entry.action for entry in await trail(database, made.id)] == ["tenant.create"]


async def test_operators_names_are_given_once(tenants: Tenants, operator: Actor) -> None:
    await tenants.create("acme", by=operator)
    assert await refused(tenants.create("acme", by=operator)) == "conflict"


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("acme", True),
        ("Acme Inc", True),
        ("a.b-c", True),
        ("", False),
        ("a@b", False),
        ("t_1", False),
        (" a", False),
        ("a\n", False),
        ("a" * 101, False),
    ],
)
def test_a_name_is_neither_an_address_nor_an_id(name: str, good: bool) -> None:
    assert is_name(name) is good


async def test_a_tenant_is_found_by_id_and_by_name(tenants: Tenants, owner: Actor) -> None:
    assert (await tenants.find("acme")).id == owner.tenant_id
    assert (await tenants.find(owner.tenant_id)).name == "acme"
    assert await refused(tenants.find("nobody")) == "not_found"


async def test_a_name_that_two_have_is_not_guessed(database: Database, tenants: Tenants) -> None:
    await founded(database, "twin")
    await founded(database, "twin")
    assert await refused(tenants.find("twin")) == "conflict"


async def test_suspending_closes_and_resuming_opens_and_both_are_told(
    database: Database, tenants: Tenants, operator: Actor, owner: Actor, told: Told
) -> None:
    suspended = await tenants.suspend(owner.tenant_id, by=operator)
    assert state_of(suspended) == "suspended"
    assert told.changes == [("tenant", owner.tenant_id)]
    again = await tenants.suspend(owner.tenant_id, by=operator)
    assert again.suspended_at == suspended.suspended_at
    assert len(told.changes) == 1
    assert state_of(await tenants.resume(owner.tenant_id, by=operator)) == "active"
    await tenants.resume(owner.tenant_id, by=operator)
    assert len(told.changes) == 2
    actions = [entry.action for entry in await trail(database, owner.tenant_id)]
    assert actions == ["tenant.suspend", "tenant.resume"]


async def test_what_an_operator_does_is_in_their_own_trail_with_their_name_only_there(
    database: Database, tenants: Tenants, operator: Actor, owner: Actor
) -> None:
    home = operator.tenant_id
    origin = Origin(operator.user_id, "s_1", "websocket", "192.0.2.7", "trace", tenant_id=home)
    with acting(origin):
        await tenants.suspend(owner.tenant_id, by=operator)
    (theirs,) = await trail(database, owner.tenant_id)
    (ours,) = await trail(database, operator.tenant_id)
    assert (theirs.actor_id, theirs.session_id, theirs.address) == (None, None, None)
    assert (ours.actor_id, ours.session_id, ours.address) == (operator.user_id, "s_1", "192.0.2.7")
    assert ours.resource_id == theirs.resource_id == owner.tenant_id


async def test_a_deleted_tenant_is_closed_at_once_and_can_be_restored(
    tenants: Tenants, owner: Actor, told: Told
) -> None:
    deleted = await tenants.delete(owner.tenant_id, "acme", by=owner)
    assert state_of(deleted) == "deleted"
    assert deleted.suspended_at is not None
    assert deleted.deleted_at is not None
    assert deleted.purge_at == deleted.deleted_at + timedelta(days=GRACE_DAYS)
    assert told.changes == [("tenant", owner.tenant_id)]
    restored = await tenants.restore(owner.tenant_id, by=None)
    assert state_of(restored) == "active"
    assert restored.purge_at is None
    assert len(told.changes) == 2


async def test_a_tenant_that_was_suspended_before_is_restored_as_suspended(
    tenants: Tenants, operator: Actor, owner: Actor
) -> None:
    await tenants.suspend(owner.tenant_id, by=operator)
    await tenants.delete(owner.tenant_id, "acme", by=operator)
    assert await refused(tenants.resume(owner.tenant_id, by=operator)) == "conflict"
    assert await refused(tenants.suspend(owner.tenant_id, by=operator)) == "conflict"
    assert state_of(await tenants.restore(owner.tenant_id, by=operator)) == "suspended"


async def test_deleting_asks_for_the_name(tenants: Tenants, owner: Actor) -> None:
    assert await refused(tenants.delete(owner.tenant_id, "Acme", by=owner)) == "invalid_params"
    assert state_of(await tenants.get(owner.tenant_id)) == "active"


async def test_deleting_again_does_not_begin_the_grace_anew(tenants: Tenants, owner: Actor) -> None:
    first = await tenants.delete(owner.tenant_id, "acme", by=owner)
    again = await tenants.delete(owner.tenant_id, "acme", by=owner)
    assert again.purge_at == first.purge_at


@pytest.mark.parametrize("how", ["over", "begun"])
async def test_nothing_is_restored_after_the_grace(
    database: Database, tenants: Tenants, owner: Actor, how: str
) -> None:
    await tenants.delete(owner.tenant_id, "acme", by=owner)
    async with database.write(EVERY_TENANT) as session:
        row = await session.get(Tenant, owner.tenant_id)
        assert row is not None
        if how == "over":
            row.purge_at = now()
        else:
            row.purge_began_at = now()
    assert await refused(tenants.restore(owner.tenant_id, by=None)) == "conflict"


async def test_the_tenant_that_the_hub_began_with_stays_open(
    tenants: Tenants, operator: Actor, owner: Actor
) -> None:
    tenant_id = operator.tenant_id
    assert await refused(tenants.suspend(tenant_id, by=operator)) == "conflict"
    assert await refused(tenants.delete(tenant_id, "default", by=operator)) == "conflict"


async def test_settings_change_one_by_one_and_null_takes_one_away(
    database: Database, tenants: Tenants, owner: Actor, told: Told
) -> None:
    await tenants.update(
        owner.tenant_id, TenantSettings(display_name="Acme", default_model="m"), by=owner
    )
    await tenants.update(owner.tenant_id, TenantSettings(audit_retention_days=40), by=owner)
    await tenants.update(owner.tenant_id, TenantSettings(default_model=None), by=owner)
    await tenants.update(owner.tenant_id, TenantSettings(audit_retention_days=40), by=owner)
    async with database.read(owner.tenant_id) as session:
        settled = await settings_of(session, owner.tenant_id)
    assert settled == TenantSettings(display_name="Acme", audit_retention_days=40)
    entries = await trail(database, owner.tenant_id)
    assert [entry.details for entry in entries] == [
        '{"changed":["display_name","default_model"]}',
        '{"changed":["audit_retention_days"]}',
        '{"changed":["default_model"]}',
    ]
    assert len(told.changes) == 3


async def test_settings_that_are_not_are_refused(tenants: Tenants, owner: Actor) -> None:
    for wrong in ({"colour": "red"}, {"answer_cache": None}, {"audit_retention_days": 0}):
        with pytest.raises(ValidationError):
            TenantSettings.model_validate(wrong)
    assert await refused(tenants.update("t_none", TenantSettings(), by=None)) == "not_found"


async def test_no_owner_has_the_trail_forgotten_sooner_than_the_hub_demands(
    database: Database, tenants: Tenants, owner: Actor
) -> None:
    for days in (1, 29):
        wanted = TenantSettings(display_name="Acme", audit_retention_days=days)
        for by in (owner, None):
            with pytest.raises(Fault, match="at least 30") as caught:
                await tenants.update(owner.tenant_id, wanted, by=by)
            assert caught.value.reason == "invalid_params"
        assert await refused(tenants.create("new", by=None, settings=wanted)) == "invalid_params"
    assert await trail(database, owner.tenant_id) == []
    await tenants.update(owner.tenant_id, TenantSettings(audit_retention_days=30), by=owner)


def test_what_a_newer_hub_has_settled_is_left_out() -> None:
    assert parsed('{"display_name":"A","colour":"red"}') == TenantSettings(display_name="A")
    assert parsed(None) == TenantSettings()


async def test_all_tenants_are_listed_page_by_page(
    database: Database, tenants: Tenants, operator: Actor
) -> None:
    for number in range(5):
        await founded(database, f"t{number}")
    ids: list[str] = []
    while page := await tenants.listed(ids[-1] if ids else None, 2):
        ids += [tenant.id for tenant in page]
    assert len(ids) == 6
    assert ids == sorted(set(ids))
