"""``hub user --tenant``, ``member``, ``invitation``, ``service``: one tenant, at the machine."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

from hub.cli.changes import FILE, Changes
from tests.cli.conftest import Hub
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServeHub
from tests.parts.redis import RedisProcess

ADA, BOB = "ada@hub.example", "bob@hub.example"
OF_BOB = ("--email", BOB)


@pytest.fixture
def peopled(hub: Hub) -> Hub:
    """A hub's data with the administrator, and Bob in a tenant "acme" that Ada owns."""
    for email, role in ((ADA, "owner"), (BOB, "member")):
        of = ("--email", email, "--role", role, "--tenant", "acme")
        made = hub("user", "create", "--password-stdin", *of, stdin=PASSWORD)
        assert made.status == 0, made.err
    return hub


def lines(hub: Hub, *words: str) -> list[str]:
    """What a command prints that does what it is asked."""
    ended = hub(*words)
    assert ended.status == 0, ended.err
    return ended.out.splitlines()


def complaint(hub: Hub, *words: str) -> str:
    """What a command says that does nothing."""
    ended = hub(*words)
    assert (ended.status, ended.out) == (1, "")
    return ended.err.splitlines()[-1]


def told(hub: Hub, tenant: str = "acme") -> list[tuple[str, str]]:
    """What the trail of a tenant says was done at the machine, the oldest first."""
    entries = map(json.loads, lines(hub, "audit", "query", "--tenant", tenant, "--json"))
    return [(each["action"], each["transport"]) for each in entries][::-1]


def test_who_is_disabled_in_one_tenant_is_enabled_there_again(peopled: Hub, tmp_path: Path) -> None:
    acme = ("--tenant", "acme")
    changes = Changes(tmp_path / ".hub" / FILE)
    (said,) = lines(peopled, "user", "disable", *OF_BOB, *acme)
    assert said.endswith(f"{BOB} may do nothing in acme")
    user_id = said.split()[0]
    assert changes.news() == [("user", user_id)]
    assert "(disabled)" not in peopled("user", "list").out, "they may go on elsewhere"
    assert lines(peopled, "user", "enable", *OF_BOB, *acme)[0].endswith("may come into acme")
    # The last owner is one who can come in; and one is disabled where one is a member.
    assert "last owner" in complaint(peopled, "user", "disable", "--email", ADA, *acme)
    assert "no such user" in complaint(peopled, "user", "disable", *OF_BOB, "--tenant", "default")
    assert "no tenant" in complaint(peopled, "user", "disable", *OF_BOB, "--tenant", "nowhere")
    lines(peopled, "user", "disable", *OF_BOB)
    (still,) = lines(peopled, "user", "enable", *OF_BOB, *acme)
    assert still.endswith("they are disabled everywhere, still")


def test_a_user_is_renamed_exported_and_deleted_in_one_tenant(peopled: Hub) -> None:
    assert lines(peopled, "user", "update", *OF_BOB, "--name", "Bob")[0].endswith("is Bob")
    exported = [json.loads(line) for line in lines(peopled, "user", "export", *OF_BOB)]
    assert exported[0]["name"] == "Bob"
    lines(peopled, "user", "export", *OF_BOB, "--tenant", "acme")
    acme = ("--tenant", "acme")
    there = lines(peopled, "user", "update", *OF_BOB, *acme, "--name", "Bobby")
    assert there[0].endswith("is Bobby in acme")
    assert "all tenants" in complaint(peopled, "user", "update", *OF_BOB, *acme, "--new-email", ADA)
    assert "no such user" in complaint(
        peopled, "user", "update", *OF_BOB, "--tenant", "default", "--no-name"
    )
    told_there = [json.loads(line) for line in lines(peopled, "user", "export", *OF_BOB, *acme)]
    assert {"section": "name", "name": "Bobby"}.items() <= told_there[2].items()
    account = lines(peopled, "user", "update", *OF_BOB, *acme, "--no-name")
    assert account[0].endswith("is Bob in acme")
    assert lines(peopled, "user", "update", *OF_BOB, "--no-name")[0].endswith("has no name")
    assert peopled("user", "update", *OF_BOB, "--name", "").status == 2
    assert peopled("user", "update", *OF_BOB, "--name", "\x1b[2J").status == 2
    assert "--new-email" in complaint(peopled, "user", "update", *OF_BOB)
    assert "of its own" in complaint(peopled, "user", "update", *OF_BOB, "--new-email", ADA)
    bert = "bert@hub.example"
    moved = lines(peopled, "user", "update", *OF_BOB, "--new-email", bert, "--name", "Bert")
    assert moved[0].endswith(f"has the address {bert}")
    lines(peopled, "user", "update", "--email", bert, "--new-email", BOB)
    here = ("--tenant", "acme")
    assert lines(peopled, "user", "sessions", *OF_BOB, *here) == []
    lines(peopled, "user", "sign-out", *OF_BOB, *here)
    assert "in acme for good" in complaint(peopled, "user", "delete", *OF_BOB, *here)
    lines(peopled, "user", "delete", *OF_BOB, *here, "--yes")
    assert BOB not in peopled("user", "list").out, "who is nowhere else is no more"
    assert [action for action, by in told(peopled) if by == "cli"][2:] == [
        "user.update", "user.export", "user.export", "user.update", "user.export",
        *["user.update"] * 5,
        "user.sign_out", "user.delete",
    ]  # fmt: skip


def test_a_member_is_invited_comes_and_is_removed(peopled: Hub) -> None:
    acme = ("--tenant", "acme")
    listed = lines(peopled, "member", "list", *acme)
    assert [line.split()[1:] for line in listed] == [[ADA, "owner"], [BOB, "member"]]
    made = peopled("invitation", "create", "--email", "Eve@Hub.example", "--role", "viewer", *acme)
    assert re.fullmatch(r"[\w-]{43}\n", made.out)
    invitation = made.err.split()[0]
    (waiting,) = lines(peopled, "invitation", "list", *acme)
    assert waiting.startswith(f"{invitation} of eve@hub.example, as viewer, until ")
    lines(peopled, "invitation", "revoke", invitation, *acme)
    assert lines(peopled, "invitation", "list", *acme) == []
    assert peopled("invitation", "revoke", invitation, *acme).status == 1
    assert "no role 'king'" in complaint(peopled, "invitation", "create", "--role", "king", *acme)
    lines(peopled, "tenant", "settings", "acme", "invitation_domains=corp.example")
    assert "corp.example" in complaint(peopled, "invitation", "create", *OF_BOB, *acme)
    (said,) = lines(peopled, "member", "remove", "--user", BOB, *acme)
    assert said.endswith("is a member no more")
    assert "last owner" in complaint(peopled, "member", "remove", "--user", ADA, *acme)
    assert len(lines(peopled, "member", "list", *acme)) == 1
    assert [action for action, _ in told(peopled)][2:] == [
        "invitation.create", "invitation.revoke", "tenant.update", "member.remove",
    ]  # fmt: skip


def test_a_service_account_is_made_renamed_disabled_and_deleted(
    peopled: Hub, tmp_path: Path
) -> None:
    acme = ("--tenant", "acme")
    (made,) = lines(peopled, "service", "create", "ticker", *acme)
    found = re.fullmatch(r"ticker \((u_\w+)\): service", made)
    assert found is not None
    changes = Changes(tmp_path / ".hub" / FILE)
    assert lines(peopled, "service", "list", *acme) == [made]
    assert lines(peopled, "service", "show", found[1], *acme) == [made]
    assert "no service account" in complaint(peopled, "service", "show", "ticker")
    renamed = lines(peopled, "service", "update", "ticker", "--name", "clock", *acme)
    assert renamed == [made.replace("ticker", "clock")]
    lines(peopled, "service", "disable", "clock", *acme)
    assert changes.news() == [("user", found[1])] * 2
    assert lines(peopled, "service", "list", *acme) == [f"{renamed[0]} (disabled)"]
    lines(peopled, "service", "enable", "clock", *acme)
    lines(peopled, "service", "delete", "clock", *acme)
    assert lines(peopled, "service", "list", *acme) == []
    assert [action for action, _ in told(peopled)][2:] == [
        f"service.{verb}" for verb in ("create", "update", "disable", "enable", "delete")
    ]


def test_a_key_is_changed_and_rotated(peopled: Hub) -> None:
    made = peopled("apikey", "create", "--name", "bot", "--email", ADA, "--scope", "run:read")
    key_id = made.err.split()[0]
    (said,) = lines(
        peopled, "apikey", "update", key_id, "--name", "b", "--scope", "model:read", "--days", "3"
    )
    assert re.fullmatch(rf"{key_id} \(b\) expires [\d :-]+ UTC, for: model:read", said)
    assert "does not expire" in lines(peopled, "apikey", "update", key_id, "--forever")[0]
    rotated = peopled("apikey", "rotate", key_id, "--overlap-hours", "0")
    assert rotated.status == 0, rotated.err
    assert rotated.out != made.out
    assert "0 to 168" in complaint(peopled, "apikey", "rotate", key_id, "--overlap-hours", "900")
    assert "no key" in complaint(peopled, "apikey", "rotate", "ak_none")
    assert [action for action, _ in told(peopled)][2:] == [
        "apikey.create", "apikey.update", "apikey.update", "apikey.rotate",
    ]  # fmt: skip


def test_a_second_factor_is_demanded_from_a_role_on_or_of_nobody(peopled: Hub) -> None:
    factor = ("role", "second-factor", "--tenant", "acme")
    assert lines(peopled, *factor) == ["nobody must"]
    demanded = ["whoever has a role of rank 40 or above must"]
    assert lines(peopled, *factor, "--from", "admin") == demanded == lines(peopled, *factor)
    assert lines(peopled, *factor, "--nobody") == ["nobody must"] == lines(peopled, *factor)
    assert [action for action, _ in told(peopled)][2:] == ["factor.require"] * 2


async def test_a_membership_that_is_ended_at_the_machine_ends_on_open_sockets(
    serve_hub: ServeHub, redis_server: RedisProcess, hub: Hub
) -> None:
    account = {"email": BOB, "password": PASSWORD}
    redis = {"HUB_REDIS_URL": redis_server.url}
    async with serve_hub(worker=False, **redis) as served:

        async def at_the_machine(*words: str) -> None:
            done = await asyncio.to_thread(lambda: hub(*words, "--tenant", "acme", **redis))
            assert done.status == 0, done.err

        accounts = served.hub.services.accounts
        await accounts.create_user(ADA, PASSWORD, "acme", "owner")
        made = await accounts.create_user(BOB, PASSWORD, "acme", "member")
        for words, why in (
            (("user", "sign-out", *OF_BOB), "session_revoked"),
            (("user", "disable", *OF_BOB), "user_disabled"),
            (("member", "remove", "--user", made[0].id), "membership_ended"),
        ):
            async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
                token = (await client.post("/v1/auth/login", json=account)).json()["access_token"]
            async with open_socket(served.ws_url, token) as socket:
                await socket.notice("session.ready")
                await at_the_machine(*words)
                assert (await socket.notice("session.revoked", within=1))["reason"] == why
            if why == "user_disabled":
                await at_the_machine("user", "enable", *OF_BOB)
