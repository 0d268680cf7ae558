"""What a hub that is for real does not start without."""

from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import make_url

from hub.app import running
from hub.cli.doctor import _for_real
from hub.settings import BadSettings, Settings, read_settings
from hub.settings.production import check_production
from hub.storage.database import Database
from tests.parts.postgres import SUPERUSER

WELL: Final = {
    "HUB_ENVIRONMENT": "production",
    "HUB_SMTP_URL": "smtps://mail.example",
    "HUB_PUBLIC_URL": "https://hub.example",
    "HUB_BCRYPT_COST": "10",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(**given: str) -> Settings:
    return read_settings(HUB_DATA_DIR=".hub", **{**WELL, **given})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUB_SMTP_URL", ""),
        ("HUB_PUBLIC_URL", ""),
        ("HUB_PUBLIC_URL", "http://hub.example"),
        ("HUB_PUBLIC_URL", "http://127.0.0.1.hub.example"),
        ("HUB_BCRYPT_COST", "9"),
    ],
)
async def test_it_does_not_start_with_what_is_for_trying_and_says_what_to_set(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each, well in {**WELL, name: value}.items():
        monkeypatch.setenv(each, well)
    wanting = read_settings(HUB_DATA_DIR=".hub")
    with pytest.raises(BadSettings, match=f"^{name}: .*HUB_ENVIRONMENT=development"):
        async with running(wanting):
            pass
    assert not (tmp_path / ".hub").exists(), "and makes nothing"
    with pytest.raises(BadSettings, match=f"^{name}: "):
        await _for_real(wanting)
    monkeypatch.setenv("HUB_ENVIRONMENT", "development")
    assert "development" in await _for_real(read_settings())


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(BadSettings) as caught:
        check_production(read_settings(HUB_ENVIRONMENT="production", HUB_BCRYPT_COST="4"))
    said = str(caught.value)
    assert all(name in said for name in ("HUB_SMTP_URL", "HUB_PUBLIC_URL", "HUB_BCRYPT_COST"))


@pytest.mark.parametrize(
    "url", ["https://hub.example", "http://localhost:8000", "http://127.0.0.9", "http://[::1]:80"]
)
def test_links_lead_over_tls_or_to_this_machine(url: str) -> None:
    check_production(settings(HUB_PUBLIC_URL=url))


async def test_it_starts_with_all_of_it() -> None:
    async with running(settings(), worker=False) as hub:
        assert hub.services.settings.environment == "production"


async def test_it_does_not_start_with_a_role_that_no_wall_holds(
    unmigrated_postgres_url: str,
) -> None:
    powerful = make_url(unmigrated_postgres_url).set(username=SUPERUSER)
    url = powerful.render_as_string(hide_password=False)
    with pytest.raises(BadSettings, match=r"HUB_DATABASE_URL: .*superuser.*without SUPERUSER"):
        async with running(settings(HUB_DATABASE_URL=url)):
            pass
    database = Database(unmigrated_postgres_url)
    assert await database.migrated() is None, "it has made no tables that another does not own"
    await database.close()
    wanting = settings(HUB_DATABASE_URL=url, HUB_ENVIRONMENT="development")
    async with running(wanting, worker=False):
        pass


async def test_it_starts_with_a_role_that_owns_its_tables(unmigrated_postgres_url: str) -> None:
    async with running(settings(HUB_DATABASE_URL=unmigrated_postgres_url), worker=False):
        pass
