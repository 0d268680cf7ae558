"""Refusals: noted off the reply's path, in the tenant that they belong to, and never a flood."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from hub.audit import denials as module
from hub.audit.denials import OF_SOURCE, OMITTED, SUMMARIES, Denials
from hub.audit.origin import Origin
from hub.audit.refusal import Refusal
from hub.audit.trail import WRITTEN
from hub.audit.verification import verify
from hub.faults import Fault
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, User
from hub.telemetry.metrics import Metrics
from tests.audit.conftest import entries, make_tenant
from tests.audit.faults import refuse_entries
from tests.interaction.drivers import eventually

BURST = OF_SOURCE["sensitive"][0]
EVERYDAY = OF_SOURCE["everyday"][0]


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
    monkeypatch.setattr(module, "OF_TENANT", dict.fromkeys(module.OF_TENANT, (5, 1e9)))
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


def everyday(tenant_id: str, actor: str) -> Refusal:
    origin = Origin(actor, None, "rest", "192.0.2.1")
    return Refusal(
        "conversation.get", "denied", "not_found", origin, tenant_id, ("conversation", "c_1"),
        everyday=True,
    )  # fmt: skip


async def test_what_is_refused_every_day_and_who_fails_to_sign_in_hide_nothing_that_is_sensitive(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    denials = Denials(database, metrics, queued=60)
    denials.start()
    for number in range(100):
        denials.note(sign_in("nobody@hub.example", f"192.0.2.{number}"))
    for number in range(100):
        denials.note(everyday(tenant, f"u_{number}"))
    for _ in range(100):
        denials.note(everyday(tenant, "u_1"))
    denials.note(refusal(tenant))
    await denials.written()
    await denials.close()
    found = await entries(database, tenant)
    told = Counter(entry["action"] for entry in found if entry["action"] != OMITTED)
    most = module.OF_TENANT["everyday"][0]
    assert told == {"account.login": 60, "conversation.get": most, "user.delete": 1}
    omitted = [one["details"] for one in found if one["action"] == OMITTED]
    assert omitted[0] == {"count": 100, "actions": ["conversation.get 100"]}, "of who asked most"
    assert sum(one["count"] for one in omitted) + told.total() == 301, "none is lost"
    assert dropped(metrics, "queue") == 40 + 40 + EVERYDAY - 1
    assert (await verify(database, tenant)).report.ok


async def test_a_flood_of_refusals_is_one_transaction_and_then_none(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    transactions: list[int] = []
    database.on_commit(lambda info: transactions.append(len(info.get(WRITTEN, ()))))
    denials = Denials(database, metrics)
    denials.start()
    for round in range(3):
        for _ in range(1_000):
            for number in range(4):
                denials.note(everyday(tenant, f"u_{number}"))
        await denials.written()
        assert transactions == [4 * EVERYDAY], round
    await denials.close()


async def test_however_many_were_left_out_that_is_said_in_a_few_entries(
    database: Database, tenant: str, metrics: Metrics
) -> None:
    denials = Denials(database, metrics, queued=10_000)
    denials.start()
    for number in range(300):
        for _ in range(BURST + 1 + (number < 3)):
            denials.note(refusal(tenant, actor=f"u_{number}"))
    await denials.written()
    await denials.close()
    found = await entries(database, tenant)
    omitted = [entry for entry in found if entry["action"] == OMITTED]
    assert len(omitted) == SUMMARIES + 1
    assert [one["actor_id"] for one in omitted[:3]] == ["u_0", "u_1", "u_2"], "those of most"
    assert "actor_id" not in omitted[-1]
    written = len(found) - len(omitted)
    left = sum(one["details"]["count"] for one in omitted)
    assert written + left == 300 * (BURST + 1) + 3


async def test_what_waits_for_the_database_is_written_when_it_is_back_and_costs_once(
    database: Database, tenant: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OF_TENANT", dict.fromkeys(module.OF_TENANT, (BURST, 1e9)))
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    write, attempts = database.write, count()

    def away(scope: str) -> Any:
        if next(attempts) < 5:
            raise Fault("backend_unavailable")
        return write(scope)

    monkeypatch.setattr(database, "write", away)
    denials = Denials(database, metrics)
    denials.start()
    for _ in range(BURST):
        denials.note(refusal(tenant))
    await denials.written()
    await denials.close()
    assert [one["action"] for one in await entries(database, tenant)] == ["user.delete"] * BURST
    assert next(attempts) > 5


async def test_what_is_being_written_when_the_hub_ends_is_written_once(
    database: Database, tenant: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, committed, go_on = database.write, asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow(scope: str) -> AsyncIterator[Any]:
        async with write(scope) as session:
            yield session
        committed.set()
        await go_on.wait()

    monkeypatch.setattr(database, "write", slow)
    denials = Denials(database, metrics)
    denials.start()
    denials.note(refusal(tenant))
    await committed.wait()
    closing = asyncio.create_task(denials.close())
    asyncio.get_running_loop().call_soon(go_on.set)
    await closing
    assert len(await entries(database, tenant)) == 1


async def test_who_has_a_whole_network_of_addresses_is_one_source(
    database: Database, tenant: str, denials: Denials
) -> None:
    for number in range(100):
        denials.note(sign_in("nobody@hub.example", f"2001:db8::{number:x}"))
    denials.note(sign_in("nobody@hub.example", "2001:db8:0:1::1"))
    await denials.written()
    found = [entry["address"] for entry in await entries(database, tenant)]
    assert len(found) == OF_SOURCE["sign-in"][0] + 1
    assert found[0] == "2001:db8::0"
    assert found[-1] == "2001:db8:0:1::1"


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
    told = [entry["action"] for entry in await entries(database, tenant)]
    assert told == ["user.delete"] * 2 + [OMITTED] * 3


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
    denials.note(sign_in("Nobody@hub.example"))
    for typed in (None, "my secret password", "p@ssword", "two@hub.example words"):
        denials.note(sign_in(typed))  # whoever guesses could find out from a hash that it was this
    await denials.written()
    first, *others = await entries(database, tenant)
    hashed = hashlib.sha256(b"nobody@hub.example").hexdigest()
    assert first["details"] == {"reason": "unauthenticated", "email_sha256": hashed}
    assert [one["details"] for one in others] == [{"reason": "unauthenticated"}] * 4
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
