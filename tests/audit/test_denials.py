"""Refusals: noted off the reply's path, in the tenant that they belong to, and never a flood."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.audit import denials as module
from hub.audit.denials import OF_SOURCE, OMITTED, Denials, Refusal
from hub.audit.origin import Origin
from hub.audit.verification import verify
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, User
from hub.telemetry.metrics import Metrics
from tests.audit.conftest import entries, make_tenant
from tests.audit.faults import refuse_entries
from tests.interaction.drivers import eventually

BURST = OF_SOURCE[0]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def denials(database: Database, metrics: Metrics) -> AsyncIterator[Denials]:
    denials = Denials(database, metrics)
    denials.start()
    yield denials
    await denials.close()


def dropped(metrics: Metrics, why: str) -> float:
    return float(metrics.audit_dropped.labels(why)._value.get())


def refusal(tenant_id: str | None, actor: str | None = "u_1", **more: Any) -> Refusal:
    origin = Origin(actor, None, "rest", "192.0.2.1")
    return Refusal("user.delete", "denied", "permission_denied", origin, tenant_id, **more)


def sign_in(email: str | None, address: str = "192.0.2.1", tenant: str | None = None) -> Refusal:
    origin = Origin(None, None, "rest", address)
    return Refusal("account.login", "failed", "unauthenticated", origin, email=email, tenant=tenant)


async def add_user(database: Database, email: str, *tenants: str) -> str:
    user = User(id=new_id("u"), email=email)
    async with database.write(EVERY_TENANT) as session:
        session.add(user)
        await session.flush()
        for tenant_id in tenants:
            membership = Membership(
                id=new_id("ms"), tenant_id=tenant_id, user_id=user.id, role_id="member"
            )
            session.add(membership)
            await session.flush()
    return user.id


async def test_a_refusal_is_an_entry_of_its_tenant(
    database: Database, tenant: str, denials: Denials
) -> None:
    denials.note(refusal(tenant, resource=("user", "u_2")))
    await denials.written()
    (entry,) = await entries(database, tenant)
    assert (entry["action"], entry["outcome"]) == ("user.delete", "denied")
    assert (entry["actor_id"], entry["address"]) == ("u_1", "192.0.2.1")
    assert (entry["resource_kind"], entry["resource_id"]) == ("user", "u_2")
    assert entry["details"] == {"reason": "permission_denied"}


async def test_a_flood_of_one_is_a_few_entries_and_a_number_and_hides_nobody_else(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    denials = Denials(database, metrics)
    denials.start()
    for _ in range(500):
        denials.note(refusal(tenant))
    denials.note(refusal(tenant, actor="u_2"))
    await denials.written()
    await denials.close()
    found = await entries(database, tenant)
    assert [entry["actor_id"] for entry in found[:-1]] == ["u_1"] * BURST + ["u_2"]
    assert (found[-1]["action"], found[-1]["actor_id"]) == (OMITTED, "u_1")
    assert found[-1]["details"] == {
        "count": 500 - BURST,
        "actions": [f"user.delete {500 - BURST}"],
    }
    assert dropped(metrics, "source") == 500 - BURST
    assert (await verify(database, tenant)).report.ok


async def test_a_flood_of_many_sources_fills_no_tenants_trail(
    database: Database, tenant: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OF_TENANT", (5, 1e9))
    denials = Denials(database, metrics)
    denials.start()
    for number in range(30):
        denials.note(sign_in("nobody@hub.example", f"192.0.2.{number}"))
    await denials.written()
    await denials.close()
    found = await entries(database, tenant)
    assert [entry["action"] for entry in found] == ["account.login"] * 5 + [OMITTED]
    assert found[-1]["details"]["count"] == 25
    assert dropped(metrics, "tenant") == 25


async def test_what_was_left_out_is_told_while_the_hub_runs(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    denials = Denials(database, metrics, summary_s=0.0, tick_s=0.01)
    denials.start()
    for _ in range(BURST + 1):
        denials.note(refusal(tenant))

    async def told() -> bool:
        return any(entry["action"] == OMITTED for entry in await entries(database, tenant))

    await eventually(told)
    await denials.close()


async def test_a_full_queue_drops_and_counts_and_nobody_waits(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    denials = Denials(database, metrics, queued=2)
    for number in range(5):
        denials.note(refusal(tenant, actor=f"u_{number}"))
    assert dropped(metrics, "queue") == 3
    denials.start()
    await denials.written()
    await denials.close()
    assert len(await entries(database, tenant)) == 2


async def test_a_trail_that_refuses_does_not_stop_the_others(
    database: Database, tenant: str, denials: Denials, metrics: Metrics
) -> None:
    await refuse_entries(database)
    denials.note(refusal(tenant))
    await denials.written()
    assert dropped(metrics, "failed") == 1


# --- sign-ins ---


async def test_a_failed_sign_in_belongs_to_the_tenant_that_it_would_have_entered(
    database: Database, tenant: str, denials: Denials
) -> None:
    second = await make_tenant(database, "second")
    user = await add_user(database, "ada@hub.example", second, tenant)
    denials.note(sign_in(" ADA@hub.example"))
    denials.note(sign_in("ada@hub.example", tenant=tenant))
    denials.note(sign_in("ada@hub.example", tenant="no such tenant"))
    await denials.written()
    assert len(await entries(database, second)) == 2
    (entry,) = await entries(database, tenant)
    assert (entry["resource_kind"], entry["resource_id"]) == ("user", user)
    assert (entry["outcome"], entry["details"]) == ("failed", {"reason": "unauthenticated"})
    assert "actor_id" not in entry


async def test_one_of_an_address_without_an_account_is_the_operators_and_the_address_is_not_told(
    database: Database, tenant: str, denials: Denials
) -> None:
    other = await make_tenant(database, "other")
    denials.note(sign_in("my secret password"))
    denials.note(sign_in(None))
    await denials.written()
    first, second = await entries(database, tenant)
    hashed = hashlib.sha256(b"my secret password").hexdigest()
    assert first["details"] == {"reason": "unauthenticated", "email_sha256": hashed}
    assert second["details"] == {"reason": "unauthenticated"}
    assert await entries(database, other) == []


async def test_one_of_a_user_of_no_tenant_is_the_operators(
    database: Database, tenant: str, denials: Denials
) -> None:
    user = await add_user(database, "ada@hub.example")
    denials.note(sign_in("ada@hub.example"))
    await denials.written()
    (entry,) = await entries(database, tenant)
    assert entry["resource_id"] == user


async def test_where_there_is_no_tenant_yet_nothing_is_written(
    database: Database, metrics: Metrics
) -> None:
    denials = Denials(database, metrics)
    denials.start()
    denials.note(sign_in("ada@hub.example"))
    await denials.written()
    await denials.close()
    assert not denials._queue
