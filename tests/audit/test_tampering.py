"""Tampering with the table: each kind is found, and the row is named. On both databases."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from hub.audit import checkpoint
from hub.audit.chain import GENESIS, hash_of
from hub.audit.reading import PAGE, extent
from hub.audit.seal import Seal, made_seal
from hub.audit.trail import record
from hub.audit.verification import verify
from hub.audit.verifier import Known
from hub.faults import Fault
from hub.settings import Settings, read_settings
from hub.storage.database import Database
from tests.audit.conftest import entries, make_tenant, write
from tests.audit.faults import meddle

COUNT = 9


@dataclass
class Trail:
    """A chain of nine entries, of a tenant beside whom there is another."""

    database: Database
    tenant: str

    async def do(self, *statements: str, **values: Any) -> None:
        await meddle(self.database, *statements, tenant=self.tenant, **values)

    async def told(self, *known: Known) -> list[str]:
        report = (await verify(self.database, self.tenant, known=known)).report
        return [str(finding) for finding in report.findings]

    async def head(self) -> Known:
        head = (await extent(self.database, self.tenant)).head
        assert head is not None
        return head

    async def hash_again(self, start: int) -> None:
        """Make the chain anew from this entry on, head and all."""
        previous = GENESIS
        for entry in await entries(self.database, self.tenant):
            if entry["seq"] >= start:
                entry["previous_hash"] = previous
                entry["hash"] = hash_of(entry)
                await meddle(
                    self.database,
                    "UPDATE audit_entries SET hash = :hash, previous_hash = :previous "
                    "WHERE id = :id",
                    hash=entry["hash"],
                    previous=previous,
                    id=entry["id"],
                )
            previous = entry["hash"]
        await self.do("UPDATE audit_heads SET hash = :hash WHERE id = :tenant", hash=previous)


@pytest.fixture
async def trail(database: Database, tenant: str) -> Trail:
    other = await make_tenant(database, "other")
    await write(database, tenant, COUNT)
    await write(database, other, 2)
    return Trail(database, tenant)


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return read_settings(HUB_DATA_DIR=str(tmp_path / "data"))


@pytest.fixture
def seal(settings: Settings) -> Seal:
    return made_seal(settings)


ONE = "WHERE tenant_id = :tenant AND seq = :seq"


async def test_what_nobody_touched_is_whole(trail: Trail) -> None:
    found = await verify(trail.database, trail.tenant, known=[await trail.head()])
    assert (found.report.ok, found.complete) == (True, True)
    assert (found.report.entries, found.report.first, found.report.last) == (COUNT, 1, COUNT)


@pytest.mark.parametrize(
    ("seq", "change"),
    [
        (1, "outcome = 'denied'"),
        (COUNT, "actor_id = 'u_another'"),
        (5, "details = '{}'"),
        (5, "details = 'nonsense'"),
        (5, "at = '1999-01-01 00:00:00+00:00'"),
        (5, "hash = 'f'"),
        (5, "id = 'ae_another'"),
    ],
)
async def test_an_entry_that_is_edited_is_named(trail: Trail, seq: int, change: str) -> None:
    await trail.do(f"UPDATE audit_entries SET {change} {ONE}", seq=seq)
    (told,) = await trail.told()
    assert told.startswith(f"entry {seq} (ae_")
    assert told.endswith("was edited")


async def test_a_date_that_is_none_is_an_edit_and_hides_nothing(trail: Trail) -> None:
    if not trail.database.embedded:
        pytest.skip("PostgreSQL takes no such date")
    await trail.do(f"UPDATE audit_entries SET at = 'yesterday' {ONE}", seq=2)
    await trail.do(f"UPDATE audit_entries SET outcome = 'denied' {ONE}", seq=4)
    assert [told.partition(" (")[0] for told in await trail.told()] == ["entry 2", "entry 4"]


@pytest.mark.parametrize(
    "change",
    [
        "at = replace(at, ' ', 'T')",
        "at = replace(at, '-', '')",
        "at = at || '+05:00'",
        "actor_id = x'00ff'",
        "resource_id = CAST(resource_id AS BLOB)",
        "hash = CAST(hash AS BLOB)",
        "previous_hash = CAST(previous_hash AS BLOB)",
    ],
)
async def test_the_same_said_otherwise_is_an_edit_where_filters_would_not_find_it_any_more(
    trail: Trail, change: str
) -> None:
    if not trail.database.embedded:
        pytest.skip("PostgreSQL keeps each column in one form")
    async with trail.database.write(trail.tenant) as session:
        await record(session, trail.tenant, "user.do", resource=("user", "u_1"))
    await trail.do(f"UPDATE audit_entries SET {change} {ONE}", seq=COUNT + 1)
    told = await trail.told()
    assert told
    assert all(one.startswith(f"entry {COUNT + 1} (ae_") for one in told)


@pytest.mark.parametrize("seq", [0, -1, -(2**31)])
async def test_an_entry_before_the_first_is_one_that_was_inserted(trail: Trail, seq: int) -> None:
    await trail.do(
        "INSERT INTO audit_entries (id, tenant_id, seq, at, action, outcome, transport, details, "
        "previous_hash, hash) SELECT 'ae_new', tenant_id, :before, at, action, outcome, "
        f"transport, details, previous_hash, hash FROM audit_entries {ONE}",
        seq=1,
        before=seq,
    )
    assert await trail.told() == [f"entry {seq} (ae_new) was inserted"]
    await trail.do(f"DELETE FROM audit_entries {ONE}", seq=1)
    assert await trail.told() == [f"entry {seq} (ae_new) was inserted", "entry 1 was removed"]


@pytest.mark.parametrize("seq", [1.5, COUNT + 0.5, COUNT + 1.5, "x"])
async def test_an_entry_whose_number_is_none_is_one_that_was_inserted(
    trail: Trail, seq: float | str
) -> None:
    if not trail.database.embedded:
        pytest.skip("PostgreSQL takes no such number")
    made = (await entries(trail.database, trail.tenant))[0] | {"id": "ae_new", "seq": seq}
    columns = ("id", "seq", "action", "outcome", "transport", "previous_hash")
    await trail.do(
        "INSERT INTO audit_entries (tenant_id, at, details, hash, " + ", ".join(columns) + ") "
        f"SELECT tenant_id, at, details, :hash, {', '.join(f':{name}' for name in columns)} "
        f"FROM audit_entries WHERE tenant_id = :tenant AND seq = 1",
        hash=hash_of(made),
        **{name: made[name] for name in columns},
    )
    (told,) = await trail.told()
    assert told.endswith(" (ae_new) was inserted")


async def test_a_note_of_pruning_that_is_none_explains_nothing(trail: Trail) -> None:
    for details in (
        {"through": "3", "hash": "f", "public_key": "k", "signature": "s"},
        {"through": 3, "hash": 4, "public_key": "k", "signature": "s"},
        {"through": True, "hash": "f", "public_key": "k", "signature": 5},
        {"through": ["3"], "hash": "f", "public_key": "k", "signature": "s"},
    ):
        async with trail.database.write(trail.tenant) as session:
            await record(session, trail.tenant, "audit.prune", details=details)  # type: ignore[arg-type]
        await trail.do("DELETE FROM audit_entries WHERE tenant_id = :tenant AND seq < 3")
        assert await trail.told() == ["entries 1 to 2 were removed"]


async def test_an_entry_that_is_edited_and_hashed_again_is_named(trail: Trail) -> None:
    for seq in (4, COUNT):
        entry = (await entries(trail.database, trail.tenant))[seq - 1] | {"outcome": "denied"}
        await trail.do(
            f"UPDATE audit_entries SET outcome = 'denied', hash = :hash {ONE}",
            seq=seq,
            hash=hash_of(entry),
        )
    assert [told.partition(" (")[0] for told in await trail.told()] == ["entry 4", f"entry {COUNT}"]


@pytest.mark.parametrize(
    ("seqs", "told"),
    [
        ("(5)", "entry 5 was removed"),
        ("(3, 4, 5)", "entries 3 to 5 were removed"),
        ("(1, 2)", "entries 1 to 2 were removed"),
        ("(8, 9)", "entries 8 to 9 were removed"),
    ],
    ids=["one", "some", "the beginning", "the end"],
)
async def test_entries_that_are_removed_are_named(trail: Trail, seqs: str, told: str) -> None:
    await trail.do(f"DELETE FROM audit_entries WHERE tenant_id = :tenant AND seq IN {seqs}")
    assert await trail.told() == [told]


async def test_entries_that_change_places_are_named(trail: Trail) -> None:
    await trail.do(
        f"UPDATE audit_entries SET seq = 1000 {ONE}".replace(":seq", "3"),
        f"UPDATE audit_entries SET seq = 3 {ONE}".replace(":seq", "7"),
        f"UPDATE audit_entries SET seq = 7 {ONE}".replace(":seq", "1000"),
    )
    told = await trail.told()
    assert [one.partition(" (")[0] for one in told] == ["entry 3", "entry 7"]
    assert [one.rpartition(")")[2] for one in told] == [" was moved, from 7", " was moved, from 3"]


async def test_an_entry_that_is_moved_to_another_tenant_is_missed_there_and_strange_here(
    trail: Trail,
) -> None:
    other = await make_tenant(trail.database, "third")
    await trail.do(f"UPDATE audit_entries SET tenant_id = :other {ONE}", seq=4, other=other)
    assert await trail.told() == ["entry 4 was removed"]
    found = (await verify(trail.database, other)).report
    assert not found.ok


async def test_an_entry_that_is_inserted_is_named(trail: Trail) -> None:
    forged = (await entries(trail.database, trail.tenant))[-1] | {"id": "ae_forged", "seq": 10}
    columns = [name for name in forged if name not in ("details", "at")]
    await trail.do(
        f"INSERT INTO audit_entries ({', '.join(columns)}, details, at) "
        f"VALUES ({', '.join(f':{name}' for name in columns)}, '{{}}', "
        "'2026-11-26 00:00:00+00:00')",
        **{name: forged[name] for name in columns},
    )
    assert await trail.told() == ["entry 10 (ae_forged) was inserted"]


async def test_an_entry_that_is_inserted_between_others_is_named(trail: Trail) -> None:
    await trail.do(
        *(
            f"UPDATE audit_entries SET seq = {seq + 1} {ONE}".replace(":seq", str(seq))
            for seq in range(COUNT, 4, -1)
        )
    )
    before = (await entries(trail.database, trail.tenant))[3]
    forged = before | {"id": "ae_forged", "seq": 5, "previous_hash": before["hash"]}
    forged |= {"at": "2026-11-26T00:00:00.000000Z", "details": {}}
    columns = [name for name in forged if name not in ("details", "at", "hash")]
    await trail.do(
        f"INSERT INTO audit_entries ({', '.join(columns)}, hash, details, at) "
        f"VALUES ({', '.join(f':{name}' for name in columns)}, :hash, '{{}}', "
        "'2026-11-26 00:00:00+00:00')",
        **{name: forged[name] for name in columns},
        hash=hash_of(forged),
    )
    told = await trail.told()
    assert "entry 5 was inserted" in told
    assert len([one for one in told if "was moved, from" in one]) == COUNT - 4


async def test_a_head_that_is_removed_or_changed_is_a_finding(trail: Trail) -> None:
    await trail.do("UPDATE audit_heads SET seq = 4 WHERE id = :tenant")
    assert await trail.told() != []
    await trail.do("DELETE FROM audit_heads WHERE id = :tenant")
    assert await trail.told() == ["the head of the chain was removed or changed"]


# --- beside a checkpoint ---


async def test_an_end_that_is_cut_off_with_its_head_shows_beside_a_checkpoint(
    trail: Trail,
) -> None:
    seen = await trail.head()
    sixth = (await entries(trail.database, trail.tenant))[5]["hash"]
    await trail.do(
        "DELETE FROM audit_entries WHERE tenant_id = :tenant AND seq > 6",
        "UPDATE audit_heads SET seq = 6, hash = :hash WHERE id = :tenant",
        hash=sixth,
    )
    assert await trail.told() == []
    assert await trail.told(seen) == ["the end was cut off: entries 7 to 9 are gone"]


async def test_a_chain_that_is_made_anew_shows_beside_a_checkpoint(trail: Trail) -> None:
    seen = await trail.head()
    await trail.do(f"UPDATE audit_entries SET outcome = 'denied' {ONE}", seq=4)
    await trail.hash_again(4)
    assert await trail.told() == []
    (told,) = await trail.told(seen)
    assert told.startswith("the chain was rewritten: entry 9 (ae_")


async def test_a_trail_that_is_gone_shows_beside_a_checkpoint(trail: Trail) -> None:
    seen = await trail.head()
    await trail.do(
        "DELETE FROM audit_entries WHERE tenant_id = :tenant",
        "DELETE FROM audit_heads WHERE id = :tenant",
    )
    assert await trail.told() == []
    assert await trail.told(seen) == ["the end was cut off: entries 1 to 9 are gone"]


def test_a_checkpoint_with_a_signature_that_is_no_text_is_refused(seal: Seal) -> None:
    said = orjson.loads(checkpoint.written({"t_1": Known(3, "f" * 64)}, seal))
    for signature in (5, None, ["x"]):
        with pytest.raises(Fault, match="its signature does not fit"):
            checkpoint.read(orjson.dumps({**said, "signature": signature}), [seal.public])


def test_a_checkpoint_is_read_only_if_who_is_trusted_signed_it(seal: Seal) -> None:
    heads = {"t_1": Known(9, "a" * 64)}
    data = checkpoint.written(heads, seal)
    assert checkpoint.read(data, [seal.public]).heads == heads
    for changed in (
        data.replace(b'"seq": 9', b'"seq": 8'),
        data.replace(b"a" * 64, b"b" * 64),
        data.replace(b"v1", b"v2"),
        data[:-20],
        b"[]",
        b"{}",
    ):
        with pytest.raises(Fault, match="checkpoint"):
            checkpoint.read(changed, [seal.public])
    with pytest.raises(Fault, match="--public-key"):
        checkpoint.read(data, [])


# --- a long one ---


async def test_a_chain_of_several_pages_is_verified_page_by_page(
    database: Database, tenant: str
) -> None:
    async with database.write(tenant) as session:
        for _ in range(2 * PAGE + 3):
            await record(session, tenant, "user.do")
    heard: list[tuple[int, int]] = []
    found = await verify(database, tenant, told=lambda done, of: heard.append((done, of)))
    total = 2 * PAGE + 3
    assert (found.report.ok, found.report.entries) == (True, total)
    assert heard == [(PAGE, total), (2 * PAGE, total), (total, total)]
    part = await verify(database, tenant, within_s=0.0)
    assert (part.complete, part.report.ok, part.report.last) == (False, True, PAGE)
    rest = await verify(database, tenant, after=part.report.last)
    assert (rest.complete, rest.report.ok, rest.report.last) == (True, True, total)
    with pytest.raises(Fault, match="conflict"):
        await verify(database, tenant, after=total + 1)
