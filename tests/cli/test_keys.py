"""``hub keys`` and ``hub apikey``: what an operator does at the machine, under a hub that runs."""

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from hub.identity.tokens.api_key_text import parse
from tests.cli.conftest import Hub
from tests.interaction.drivers import eventually, open_socket
from tests.parts.hub import HubProcess
from tests.parts.redis import RedisProcess

SOON_S = 1.0


def test_keys_are_listed_rotated_and_retired(hub: Hub, tmp_path: Path) -> None:
    first = hub("keys", "list").out
    assert re.fullmatch(r"[\w-]{22}  HS256  signs now  \(\S+\.HS256\.key\)\n", first)
    announced = hub("keys", "rotate")
    assert announced.status == 0
    assert " signs from " in announced.out
    assert [line.split("  ")[2].split()[0] for line in hub("keys", "list").out.splitlines()] == [
        "signs",
        "signs",
    ]
    assert " signs now (" in hub("keys", "rotate", "--now").out
    there = hub("keys", "list").out.splitlines()
    assert len(there) == 3
    assert [line for line in there if " verifies until " in line]
    assert hub("keys", "retire").out == "Every key is still needed.\n"
    kid = next(line.split()[0] for line in there if " verifies until " in line)
    assert hub("keys", "retire", kid).out == f"{kid} is retired\n"
    assert len(hub("keys", "list").out.splitlines()) == 2
    assert "there is no key" in hub("keys", "retire", kid).err
    left = hub("keys", "list").out.splitlines()
    signing = next(line.split()[0] for line in left if " now " in line)
    refused = hub("keys", "retire", signing)
    assert (refused.status, "rotate --now" in refused.err) == (1, True)


def test_the_key_of_a_setting_is_the_operators_to_rotate(hub: Hub) -> None:
    secret = {"JWT_SECRET_KEY": "kDmW3Zq8vN5tYb2RfLx7HcJ4sGpA9eUi6oTnVyXwQrE1"}
    listed = hub("keys", "list", **secret)
    assert "signs now  (the settings)" in listed.out
    refused = hub("keys", "rotate", **secret)
    assert refused.status == 1
    assert "LAST.HS256.key" in refused.err
    assert secret["JWT_SECRET_KEY"] not in refused.err + listed.out


def test_an_api_key_is_made_listed_and_revoked(hub: Hub, tmp_path: Path) -> None:
    assert hub("apikey", "list").status == 1, "there is no hub here yet"
    hub("init")
    made = hub("apikey", "create", "--name", "ticking", "--service", "ticker", "--days", "90")
    assert made.status == 0
    key = parse(made.out.strip())
    assert key is not None
    assert made.out.strip() not in made.err
    scoped = ("--scope", "conversation:read", "--scope", "message:send")
    again = hub("apikey", "create", "--name", "again", "--service", "ticker", *scoped)
    assert again.status == 0
    assert "conversation:read message:send" in again.err
    own = hub("apikey", "create", "--name", "mine", "--email", "admin@hub.example")
    assert own.status == 0
    listed = hub("apikey", "list").out
    assert listed.count("of service ticker") == 2, "the account is made once"
    assert "of admin@hub.example" in listed
    assert "not used yet, expires 20" in listed
    assert hub("apikey", "revoke", key.key_id).out == f"{key.key_id} (ticking) is revoked\n"
    assert key.key_id not in hub("apikey", "list").out
    with closing(sqlite3.connect(tmp_path / ".hub/hub.db")) as reader:
        rows = reader.execute(
            "SELECT action, transport, details FROM audit_entries "
            "WHERE action LIKE 'apikey.%' OR action LIKE 'service.%' ORDER BY seq"
        ).fetchall()
    assert [row[0] for row in rows] == [
        "service.create",
        "apikey.create",
        "apikey.create",
        "apikey.create",
        "apikey.revoke",
    ]
    assert {row[1] for row in rows} == {"cli"}
    assert json.loads(rows[1][2])["name"] == "ticking"


def test_what_cannot_be_is_said_in_a_line(hub: Hub) -> None:
    hub("init")
    create = ("apikey", "create", "--name", "x")
    for ended, said in (
        (hub(*create, "--email", "nobody@hub.example"), "no account nobody@hub.example"),
        (hub(*create, "--service", "s", "--tenant", "nowhere"), "no tenant nowhere"),
        (hub(*create, "--service", "s", "--role", "king"), "no role 'king'"),
        (hub(*create, "--service", "s", "--scope", "all"), "no permission 'all'"),
        (hub(*create, "--service", "s", "--scope", "metrics:read"), "may not metrics:read"),
        (hub(*create, "--service", "s", "--days", "0"), "--days"),
        (hub(*create, "--service", "s", "--role", "admin"), "is there already, as service"),
        (hub("apikey", "revoke", "ak_nothing"), "no key ak_nothing"),
    ):
        assert ended.status == 1, said
        assert said in ended.err
        assert "Traceback" not in ended.err


async def test_a_hub_that_runs_follows_what_the_commands_do(
    hub: Hub, hub_process: HubProcess, redis_server: RedisProcess
) -> None:
    elsewhere = {"HUB_REDIS_URL": redis_server.url}
    hub_process.environment |= elsewhere
    await asyncio.to_thread(hub_process.start)

    async def run(*words: str) -> str:
        ended = await asyncio.to_thread(lambda: hub(*words, **elsewhere))
        assert ended.status == 0, ended.err
        return ended.out.strip()

    text = await run("apikey", "create", "--name", "k", "--service", "ticker")
    await run("keys", "rotate", "--now")
    token = await run("token", "--email", "admin@hub.example")
    async with httpx.AsyncClient(base_url=hub_process.url, trust_env=False) as client:
        bearer = {"Authorization": f"Bearer {token}"}

        async def is_known() -> bool:
            told = await client.get("/v1/sessions/current", headers=bearer)
            return told.status_code == 200

        # A key that it has not read before: it looks for such at most once a second.
        await eventually(is_known)
    async with open_socket(hub_process.url.replace("http", "ws") + "/ws", text) as socket:
        await socket.notice("session.ready")
        key = parse(text)
        assert key is not None
        await run("apikey", "revoke", key.key_id)
        assert (await socket.notice("session.revoked", SOON_S))["reason"] == "key_revoked"
