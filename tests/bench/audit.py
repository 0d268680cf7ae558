"""Audit: what an entry adds to a transaction, what one chain takes from many, and verifying."""

import asyncio
import time
from contextlib import ExitStack
from statistics import median
from typing import Final

from hub.audit.chain import hash_of
from hub.audit.trail import record
from hub.audit.verification import verify
from hub.ids import new_id
from hub.settings import read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant, User
from tests.bench.backs import backs
from tests.bench.report import Table, say

WRITERS: Final = 20


def audit(*, quick: bool) -> list[Table]:
    """Measure SQLite, and PostgreSQL where it is installed."""
    rounds, count = (2, 40) if quick else (7, 1_000)
    table = Table(
        "audit",
        "a transaction of one row, without and with an audit entry",
        ("", "at once", "CPU µs", "with entry", "an entry", "tx/s", "with entry"),
    )
    chain = Table("audit-verify", "verifying", ("", "entries", "entries/s", "CPU µs/entry"))
    for name, back in backs().items():
        with ExitStack() as stack:
            environ = stack.enter_context(back())
            url = read_settings(**{k: v for k, v in environ.items() if "REDIS" not in k}).database
            say(f"audit: {name}")
            step = _measure(name.partition(",")[0], url, table, chain, size=(rounds, count))
            asyncio.run(step)
    chain.rows.append(("hashing alone", count, *_hashing(count)))
    table.notes = [
        f"Medians of {rounds} rounds of {count:,} transactions each. At once: so many writers, all",
        "of one tenant, so that all wait for the head of one chain. CPU is of this process alone:",
        "a database's own is not in it. PostgreSQL does not wait for its disk (fsync is off).",
    ]
    return [table, chain]


async def _measure(
    name: str, url: str, table: Table, chain: Table, *, size: tuple[int, int]
) -> None:
    rounds, count = size
    database = Database(url)
    await database.start()
    await database.migrate()
    tenant = Tenant(id=new_id("t"), name="bench")
    async with database.write(EVERY_TENANT) as session:
        session.add(tenant)
    for writers in (1, WRITERS):
        without, with_entry = [], []
        await _write(database, tenant.id, writers, count // 10, entry=True)
        for _ in range(rounds):
            without.append(await _write(database, tenant.id, writers, count, entry=False))
            with_entry.append(await _write(database, tenant.id, writers, count, entry=True))
        cpu = [median(c for c, _ in of) for of in (without, with_entry)]
        rate = [median(r for _, r in of) for of in (without, with_entry)]
        table.rows.append((name, writers, *cpu, cpu[1] - cpu[0], *rate))
    began, cpu_began = time.perf_counter(), time.process_time()
    found = (await verify(database, tenant.id)).report
    assert found.ok, found.findings
    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
    row = (name, found.entries, found.entries / took, cpu_took / found.entries * 1e6)
    chain.rows.append(row)
    await database.close()


async def _write(
    database: Database, tenant_id: str, writers: int, count: int, *, entry: bool
) -> tuple[float, float]:
    """CPU in µs per transaction, and transactions a second."""

    async def writer(share: int) -> None:
        for _ in range(share):
            user_id = new_id("u")
            async with database.write(EVERY_TENANT) as session:
                session.add(User(id=user_id, email=f"{user_id.lower()}@hub.example"))
                if entry:
                    await record(session, tenant_id, "user.create", resource=("user", user_id))

    share = max(1, count // writers)
    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(writer(share) for _ in range(writers)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return cpu / (share * writers) * 1e6, share * writers / took


def _hashing(count: int) -> tuple[float, float]:
    entry = {
        "id": new_id("ae"),
        "tenant_id": new_id("t"),
        "seq": 1,
        "at": "2026-11-26T02:00:00.000000Z",
        "action": "user.create",
        "outcome": "done",
        "actor_id": new_id("u"),
        "resource_kind": "user",
        "resource_id": new_id("u"),
        "transport": "rest",
        "address": "192.0.2.1",
        "details": {"role": "member"},
        "previous_hash": "0" * 64,
    }
    began = time.process_time()
    for _ in range(count):
        hash_of(entry)
    took = time.process_time() - began
    return count / took, took / count * 1e6
