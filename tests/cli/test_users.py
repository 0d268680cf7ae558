"""``hub user``: what an operator does about users at the machine."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlmodel import select

from hub.cli.changes import Changes
from hub.cli.place import PAGE
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, Membership, User, now
from tests.cli.conftest import Ended, Hub
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, HubProcess, ServeHub, sign_up
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess

EMAIL, NEW = "ada@hub.example", "a better horse and battery"
OF_ADA = ("--email", EMAIL)


@pytest.fixture
def peopled(hub: Hub) -> Hub:
    """A hub's data with the administrator and Ada."""
    made = hub("user", "create", "--password-stdin", "--role", "admin", *OF_ADA, stdin=PASSWORD)
    assert made.status == 0, made.err
    return hub


def test_users_are_listed_with_what_they_are(peopled: Hub) -> None:
    assert peopled("user", "disable", *OF_ADA).status == 0
    listed = peopled("user", "list")
    assert listed.status == 0
    lines = listed.out.splitlines()
    assert any(line.endswith(" ada@hub.example default:admin (disabled)") for line in lines)
    assert any(line.endswith(" admin@hub.example default:owner") for line in lines)
    assert peopled("user", "list", "--tenant", "nowhere").out == ""
    assert peopled("user", "enable", *OF_ADA).status == 0
    assert "(disabled)" not in peopled("user", "list", "--tenant", "default").out


@pytest.mark.parametrize(
    "words",
    [
        ("disable",),
        ("enable",),
        ("verify",),
        ("sessions",),
        ("sign-out",),
        ("reset-password", "--password-stdin"),
        ("reset-password", "--link"),
        ("export",),
        ("delete", "--yes"),
    ],
    ids=" ".join,
)
def test_an_address_without_an_account_is_told(peopled: Hub, words: tuple[str, ...]) -> None:
    ended = peopled("user", *words, "--email", "nobody@hub.example", stdin=NEW)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1] == "hub: There is no account nobody@hub.example."


def test_a_command_about_users_makes_no_hub(hub: Hub, tmp_path: Path) -> None:
    ended = hub("user", "list")
    assert ended.status == 1
    assert "--data-dir" in ended.err
    assert not (tmp_path / ".hub").exists()


def test_a_password_is_set_or_a_link_is_printed(peopled: Hub) -> None:
    weak = peopled("user", "reset-password", "--password-stdin", *OF_ADA, stdin="short")
    assert (weak.status, "15 to 128" in weak.err) == (1, True)
    done = peopled("user", "reset-password", "--password-stdin", *OF_ADA, stdin=NEW)
    assert (done.status, NEW in done.out) == (0, False)
    link = peopled("user", "reset-password", "--link", *OF_ADA, HUB_PUBLIC_URL="https://hub.test")
    assert link.out.startswith("https://hub.test/#reset=")


def test_a_user_is_exported_and_deleted_by_who_means_it(peopled: Hub) -> None:
    exported = peopled("user", "export", *OF_ADA)
    lines = [json.loads(line) for line in exported.out.splitlines()]
    assert [line["section"] for line in lines] == ["profile", "membership"]
    assert lines[0]["email"] == EMAIL
    hesitant = peopled("user", "delete", *OF_ADA)
    assert (hesitant.status, "--yes" in hesitant.err) == (1, True)
    assert peopled("user", "delete", "--yes", *OF_ADA).status == 0
    assert EMAIL not in peopled("user", "list").out
    assert peopled("user", "delete", "--yes", *OF_ADA).status == 1


async def test_what_is_done_at_the_machine_acts_on_the_running_hub(
    serve_hub: ServeHub, redis_server: RedisProcess, hub: Hub
) -> None:
    async with serve_hub(HUB_REDIS_URL=redis_server.url) as served:
        session = await served.sign_up(EMAIL)
        async with open_socket(served.ws_url, session["access_token"]) as socket:
            where = ("--data-dir", str(served.data_dir))
            done = await asyncio.to_thread(
                lambda: hub("user", "disable", *where, *OF_ADA, HUB_REDIS_URL=redis_server.url)
            )
            assert done.status == 0, done.err
            assert (await socket.notice("session.revoked", within=1))["reason"] == "user_disabled"
        async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
            account = {"email": EMAIL, "password": PASSWORD}
            assert (await client.post("/v1/auth/login", json=account)).status_code == 401


def test_a_user_is_disabled_and_a_key_revoked_while_redis_is_away(peopled: Hub) -> None:
    made = peopled("apikey", "create", "--name", "bot", "--email", "admin@hub.example")
    key_id = made.err.split()[0]
    away = {"HUB_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    for words in (("user", "disable", *OF_ADA), ("apikey", "revoke", key_id)):
        done = peopled(*words, **away)
        assert done.status == 0, done.err
        assert "act on it within 5 seconds" in done.err
    assert "ada@hub.example default:admin (disabled)" in peopled("user", "list").out
    assert peopled("apikey", "list").out == ""


async def test_a_login_session_is_seen_and_ended_at_the_machine(
    hub_process: HubProcess, hub: Hub
) -> None:
    await asyncio.to_thread(hub_process.start)
    session = await sign_up(hub_process.url, EMAIL)
    ws_url = hub_process.url.replace("http", "ws", 1) + "/ws"
    where = ("--data-dir", str(hub_process.data_dir), *OF_ADA)

    async def at_the_machine(*words: str) -> Ended:
        return await asyncio.to_thread(lambda: hub("user", words[0], *where, *words[1:]))

    async with open_socket(ws_url, session["access_token"]) as socket:
        own = (await socket.ask("session.info"))["session_id"]
        listed = await at_the_machine("sessions")
        assert [line.split()[0] for line in listed.out.splitlines()] == [own]
        missing = await at_the_machine("sign-out", "--session", "s_nobodys")
        assert (missing.status, missing.out) == (1, "")
        done = await at_the_machine("sign-out", "--session", own)
        assert done.status == 0, done.err
        assert (await socket.notice("session.revoked", within=1))["reason"] == "session_revoked"
    assert (await at_the_machine("sessions")).out == ""
    assert (await at_the_machine("sign-out")).status == 0


def test_as_many_login_sessions_as_there_are_are_seen_and_any_is_ended(
    peopled: Hub, tmp_path: Path
) -> None:
    many = [f"s_{number:03}" for number in range(2 * PAGE + 1)]

    async def sign_in() -> None:
        database = Database(f"sqlite+aiosqlite:///{tmp_path / '.hub' / 'hub.db'}")
        await database.start()
        async with database.write(EVERY_TENANT) as session:
            ada = (await session.exec(select(User).where(User.email == EMAIL))).one()
            tenant_id = (await session.exec(select(Membership.tenant_id).limit(1))).one()
            end = now() + timedelta(days=1)
            session.add_all(
                LoginSession(id=each, tenant_id=tenant_id, user_id=ada.id, expires_at=end)
                for each in many
            )
        await database.close()

    asyncio.run(sign_in())
    listed = peopled("user", "sessions", *OF_ADA).out.splitlines()
    assert [line.split()[0] for line in listed] == many[::-1]
    ended = peopled("user", "sign-out", *OF_ADA, "--session", many[0])
    assert ended.status == 0, ended.err
    assert len(peopled("user", "sessions", *OF_ADA).out.splitlines()) == 2 * PAGE


async def test_what_is_done_at_the_machine_acts_on_a_hub_without_redis_too(
    hub_process: HubProcess, hub: Hub
) -> None:
    await asyncio.to_thread(hub_process.start)
    session = await sign_up(hub_process.url, EMAIL)
    ws_url = hub_process.url.replace("http", "ws", 1) + "/ws"
    where = ("--data-dir", str(hub_process.data_dir))
    async with httpx.AsyncClient(base_url=hub_process.url, trust_env=False) as client:
        bearer = {"Authorization": f"Bearer {session['access_token']}"}
        made = await client.post("/v1/apikeys", json={"name": "k"}, headers=bearer)
    text, key_id = made.json()["key"], made.json()["id"]
    async with open_socket(ws_url, text) as socket:
        await socket.notice("session.ready")
        done = await asyncio.to_thread(lambda: hub("apikey", "revoke", *where, key_id))
        assert done.status == 0, done.err
        assert (await socket.notice("session.revoked", within=1))["reason"] == "key_revoked"
    async with open_socket(ws_url, session["access_token"]) as socket:
        done = await asyncio.to_thread(lambda: hub("user", "disable", *where, *OF_ADA))
        assert done.status == 0, done.err
        assert (await socket.notice("session.revoked", within=1))["reason"] == "user_disabled"


def test_what_others_have_written_is_read_once_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "changes.jsonl"
    file.write_text('["user", "u_before"]\n')
    changes = Changes(file)
    assert changes.news() == []
    file.write_text('["user", "u_1"]\nnonsense\n["moon", "x"]\n["session", 7]\n["role", "ro')
    assert changes.news() == [("user", "u_1")]
    with file.open("a") as more:
        more.write('_2"]\n')
    assert changes.news() == [("role", "ro_2")]
    assert changes.news() == []
