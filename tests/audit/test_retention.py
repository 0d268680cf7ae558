"""Retention: what is old is deleted, a signed note remains, and the rest of the chain verifies."""

from datetime import datetime
from pathlib import Path

import pytest
from sqlmodel import col, update

from hub.audit import retention
from hub.audit.chain import instant
from hub.audit.retention import prune, terms
from hub.audit.seal import Seal, kept_seal, made_seal
from hub.audit.verification import PRUNED, verify
from hub.audit.verifier import Known
from hub.settings import BadSettings, Settings, read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant, now
from hub.storage.tenant_settings import TenantSettings
from tests.audit.conftest import entries, make_tenant, write
from tests.audit.faults import meddle


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(HUB_DATA_DIR=str(tmp_path / "data"))


@pytest.fixture
def seal(settings: Settings) -> Seal:
    return made_seal(settings)


@pytest.fixture
async def cut(database: Database, tenant: str) -> datetime:
    """The moment between five entries and three."""
    await write(database, tenant, 5)
    moment = now()
    await write(database, tenant, 3)
    return moment


async def told(database: Database, tenant: str, *trusted: str) -> list[str]:
    report = (await verify(database, tenant, trusted=trusted)).report
    return [str(finding) for finding in report.findings]


async def test_what_is_old_is_deleted_and_the_rest_verifies(
    database: Database, tenant: str, seal: Seal, cut: datetime
) -> None:
    assert await prune(database, seal, tenant, cut) == 5
    left = await entries(database, tenant)
    assert [entry["seq"] for entry in left] == [6, 7, 8, 9]
    assert left[-1]["action"] == PRUNED
    assert (left[-1]["details"]["through"], left[-1]["transport"]) == (5, "hub")
    assert left[-1]["details"]["before"] == instant(cut)
    assert await told(database, tenant, seal.public) == []
    assert await prune(database, seal, tenant, cut) == 0
    assert len(await entries(database, tenant)) == 4


async def test_pruning_goes_on_where_it_ended_before(
    database: Database, tenant: str, seal: Seal
) -> None:
    for _ in range(3):
        await write(database, tenant, 4)
        assert await prune(database, seal, tenant, now()) >= 4
        assert await told(database, tenant, seal.public) == []
    assert len(await entries(database, tenant)) == 1


async def test_a_tenant_may_keep_its_trail_for_a_shorter_time_than_the_hub(
    database: Database, tenant: str
) -> None:
    other = await make_tenant(database, "other")
    await write(database, tenant, 2)
    await write(database, other, 3)
    assert await terms(database, None, 7) == {}
    settled = TenantSettings(audit_retention_days=30).document()
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(Tenant).where(col(Tenant.id) == other).values(settings=settled))
    assert await terms(database, None, 7) == {other: 30}
    assert await terms(database, 90, 7) == {tenant: 90, other: 30}
    assert await terms(database, 7, 7) == {tenant: 7, other: 7}


async def test_a_tenant_that_has_settled_for_less_than_is_demanded_keeps_its_trail_as_long(
    database: Database, tenant: str
) -> None:
    await write(database, tenant, 2)
    settled = TenantSettings(audit_retention_days=1).document()
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(Tenant).where(col(Tenant.id) == tenant).values(settings=settled))
    assert await terms(database, None, 30) == {tenant: 30}
    assert await terms(database, 90, 30) == {tenant: 30}
    # The operator's own term is the operator's to choose.
    assert await terms(database, 7, 30) == {tenant: 7}


async def test_a_note_that_another_key_has_signed_proves_nothing(
    database: Database, tenant: str, seal: Seal, tmp_path: Path
) -> None:
    await write(database, tenant, 5)
    other = made_seal(read_settings(HUB_DATA_DIR=str(tmp_path / "other")))
    await prune(database, other, tenant, now())
    (finding,) = await told(database, tenant, seal.public)
    assert "no note that can be trusted" in finding
    assert await told(database, tenant, seal.public, other.public) == []


async def test_more_than_the_note_says_cannot_be_taken_away(
    database: Database, tenant: str, seal: Seal, cut: datetime
) -> None:
    await prune(database, seal, tenant, cut)
    await meddle(database, "DELETE FROM audit_entries WHERE seq <= 7")
    assert await told(database, tenant, seal.public) == ["entries 6 to 7 were removed"]


async def test_what_was_seen_before_it_was_pruned_is_no_finding_and_a_cut_end_still_is(
    database: Database, tenant: str, seal: Seal, cut: datetime
) -> None:
    seen = [Known(entry["seq"], entry["hash"]) for entry in await entries(database, tenant)]
    await prune(database, seal, tenant, cut)
    found = await verify(database, tenant, trusted=[seal.public], known=seen)
    assert found.report.ok
    head = Known(found.report.last, found.report.hash)
    await meddle(
        database,
        "DELETE FROM audit_entries WHERE seq = 9",
        f"UPDATE audit_heads SET seq = 8, hash = '{seen[-1].hash}'",
    )
    report = (await verify(database, tenant, known=[head])).report
    assert [finding.kind for finding in report.findings if finding.kind == "cut"] == ["cut"]


async def test_pruning_that_was_broken_off_is_done_again(
    database: Database, tenant: str, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(database, tenant, 5)
    cut = now()

    async def dies(*_: object) -> int:
        raise OSError("the node was lost")

    with monkeypatch.context() as lost:
        lost.setattr(retention, "_delete", dies)
        with pytest.raises(OSError, match="lost"):
            await prune(database, seal, tenant, cut)
    assert await told(database, tenant, seal.public) == [], "the note is there, and the entries"
    monkeypatch.setattr(retention, "BATCH", 2)
    deleting = retention._delete

    async def some(at: Database, id: str, first: int, through: int) -> int:
        return await deleting(at, id, first, through - 2)

    with monkeypatch.context() as partly:
        partly.setattr(retention, "_delete", some)
        assert await prune(database, seal, tenant, cut) == 3
    assert await told(database, tenant, seal.public) == []
    assert await prune(database, seal, tenant, cut) == 2
    assert await told(database, tenant, seal.public) == []


async def test_what_does_not_verify_is_not_pruned(
    database: Database, tenant: str, seal: Seal
) -> None:
    await write(database, tenant, 5)
    await meddle(database, "UPDATE audit_entries SET outcome = 'denied' WHERE seq = 2")
    assert await prune(database, seal, tenant, now()) == 0
    assert len(await entries(database, tenant)) == 5


def test_the_key_is_made_once_and_is_the_owners_alone(settings: Settings) -> None:
    assert kept_seal(settings) is None
    made = made_seal(settings)
    again = kept_seal(settings)
    assert again is not None
    assert made_seal(settings).public == made.public == again.public
    assert (settings.data_dir / "audit.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_none_is_named_with_what_to_do(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True)
    (settings.data_dir / "audit.key").write_text("nonsense")
    with pytest.raises(BadSettings, match="openssl genpkey"):
        made_seal(settings)
