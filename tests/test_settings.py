"""Settings: what the environment and ``.env`` say, as operators write it."""

from pathlib import Path

import pytest

from hub.settings import BadSettings, read_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_setting_that_is_empty_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_REDIS_URL", "")
    monkeypatch.setenv("JWT_SECRET_KEY", "")
    (tmp_path / ".env").write_text("HUB_PORT=\nHUB_DATABASE_URL=\nHUB_LOCAL_MODEL=\n")
    settings = read_settings()
    assert (settings.redis_url, settings.jwt_secret, settings.local_model) == (None, None, None)
    assert settings.port == 8000
    assert settings.database.endswith("hub.db")


def test_the_users_of_a_dead_node_are_gone_within_a_minute_whatever_is_set() -> None:
    longest = read_settings(HUB_PRESENCE_TTL=45).presence_ttl_s
    assert longest * 4 / 3 <= 60
    with pytest.raises(BadSettings, match="HUB_PRESENCE_TTL"):
        read_settings(HUB_PRESENCE_TTL=46)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HUB_LOCAL_MODEL", "~/models/small.gguf")
    (tmp_path / ".env").write_text("HUB_DATA_DIR=~/hub\n")
    settings = read_settings()
    assert settings.data_dir == tmp_path / "home/hub"
    assert settings.local_model == tmp_path / "home/models/small.gguf"
    assert f"{tmp_path}/home/hub/hub.db" in settings.database


def test_a_home_that_there_is_not_is_a_bad_setting() -> None:
    with pytest.raises(BadSettings, match="HUB_DATA_DIR: there is no home"):
        read_settings(HUB_DATA_DIR="~no-such-user/hub")
