"""``hub role``: what an operator does at the machine acts on running hubs that share Redis."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hub.cli import _parser, roles
from hub.faults import Fault
from hub.identity.accounts.accounts import DEFAULT_TENANT
from hub.settings import read_settings
from tests.agents.client import Client, Refused, opened
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

WITHIN_S = 1.0
BOB = "bob@hub.example"

Command = Callable[..., Coroutine[Any, Any, list[str]]]


@pytest.fixture
def role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``await role("list", HUB_REDIS_URL=…)``: the lines that ``hub role list`` prints."""

    async def run(*words: str, **environment: str) -> list[str]:
        given = _parser().parse_args(["role", *words, "--data-dir", str(tmp_path / ".hub")])
        settings = read_settings(HUB_DATA_DIR=given.data_dir, **environment)
        capsys.readouterr()
        assert await roles.run(settings, given) == 0
        return capsys.readouterr().out.splitlines()

    return run


async def _bob(hub: ServedHub) -> str:
    """A viewer of the first tenant: an access token."""
    accounts = hub.hub.services.accounts
    await accounts.ensure_administrator()
    await accounts.create_user(BOB, PASSWORD, DEFAULT_TENANT, "viewer")
    return (await accounts.login(BOB, PASSWORD)).access_token


async def _may(client: Client) -> list[str]:
    permissions: list[str] = (await client.call("session.info"))["permissions"]
    return permissions


async def test_roles_are_listed_made_changed_explained_and_deleted(
    role: Command, served_hub: ServedHub
) -> None:
    await _bob(served_hub)
    assert [line.partition(" ")[0] for line in await role("list")] == [
        "viewer", "service", "member", "operator", "admin", "owner",
    ]  # fmt: skip
    (made,) = await role(
        "create", "auditor", "--inherits", "viewer", "--rank", "12",
        "--permission", "metrics:read", "--permission", "run:read:any",
    )  # fmt: skip
    assert made.startswith("auditor (ro_")
    assert made.endswith("rank 12")
    said = await role("explain", "metrics:read", "--user", BOB)
    assert said[0] == f"{BOB} may not metrics:read"
    assert "auditor" in said[1]
    await role("assign", "auditor", "--user", BOB, "--expires", "2999-01-01T00:00Z")
    said = await role("explain", "metrics:read", "--user", BOB)
    assert said[0] == f"{BOB} may metrics:read"
    assert "auditor" in said[1]
    assert "2999" in said[1]
    assert (await role("explain", "tool:call:files/read", "--user", BOB))[0].endswith(
        "may not tool:call:files/read"
    )
    with pytest.raises(Fault, match=r"there is no 'tool:call:\*/read'"):
        await role("update", "auditor", "--permission", "tool:call:*/read")
    await role("update", "auditor", "--permission", "tool:call:files/*")
    assert "tool:call:files/*" in (await role("show", "auditor"))[0]
    said = await role("explain", "tool:call:files/read", "--user", BOB)
    assert said[0] == f"{BOB} may tool:call:files/read"
    assert "tool:call:files/*" in said[1]
    said = await role("explain", "tool:call:mail/send", "--user", BOB)
    assert said[0] == f"{BOB} may not tool:call:mail/send"
    with pytest.raises(Fault, match="in use"):
        await role("delete", "auditor")
    await role("update", "auditor", "--name", "reader", "--permission", "run:read:any")
    assert (await role("explain", "metrics:read", "--user", BOB))[0].endswith(
        "may not metrics:read"
    )
    await role("revoke", "reader", "--user", BOB)
    assert "reader" in (await role("delete", "reader"))[0]
    assert len(await role("list")) == 6


async def test_it_is_explained_of_one_thing_why_somebody_may_or_may_not(
    role: Command, served_hub: ServedHub
) -> None:
    await _bob(served_hub)
    admin = await served_hub.hub.services.accounts.access_token_for("admin@hub.example")
    async with opened(served_hub.url, admin) as other:
        others = await other.conversation()
    said = await role("explain", "conversation:read", "--user", BOB)
    assert said == [f"{BOB} may conversation:read", "  as viewer: conversation:read"]
    resource = f"conversation:{others}"
    said = await role("explain", "conversation:read", "--user", BOB, "--resource", resource)
    assert said == [
        f"{BOB} may not conversation:read to {resource}",
        "  someone else's, which the actor may not see",
        "  has viewer; it would take admin, owner",
        "  as viewer: conversation:read",
    ]
    for missing in ("conversation:c_00000000000000000000000000", "nonsense:x"):
        with pytest.raises(Fault, match=f"no {missing}"):
            await role("explain", "run:read", "--user", BOB, "--resource", missing)


async def test_a_role_is_shown_with_all_that_it_may(role: Command, served_hub: ServedHub) -> None:
    await _bob(served_hub)
    line, meaning = await role("show", "member")
    assert line.startswith("member (member): rank 20, as viewer: ")
    assert {"conversation:share", "conversation:read"} <= set(line.split())
    assert meaning.strip() == "Converses with agents."
    assert len(await role("assignments")) == 2
    (owner,) = await role("assignments", "--role", "owner")
    assert owner.endswith(" has owner")


@pytest.mark.parametrize("resource", ["conversation", "Conversation:c_1", "a:b c"])
def test_a_resource_that_is_none_is_refused(
    resource: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["role", "explain", "run:read", "--user", BOB, "--resource", resource]
    with pytest.raises(SystemExit):
        _parser().parse_args(words)
    assert "conversation:c_" in capsys.readouterr().err


async def test_what_is_not_there_is_said_by_its_name(role: Command, served_hub: ServedHub) -> None:
    await _bob(served_hub)
    for words, says in (
        (("list", "--tenant", "nowhere"), "nowhere"),
        (("assign", "boss", "--user", BOB), "there are: viewer"),
        (("assign", "viewer", "--user", "eve@hub.example"), "eve@hub.example"),
        (("assign", "viewer", "--group", "heads"), "heads"),
        (("revoke", "owner", "--user", "admin@hub.example"), "last owner"),
    ):
        with pytest.raises(Fault, match=says):
            await role(*words)


@pytest.mark.parametrize("when", ["tomorrow", "2027-01-31T12:00"])
def test_an_instant_that_is_none_is_refused(when: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["role", "assign", "viewer", "--user", BOB, "--expires", when])
    assert when in capsys.readouterr().err


async def test_a_hub_that_shares_redis_acts_on_it_at_once(
    role: Command, serve_hub: ServeHub, redis_server: Any
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url}
    async with serve_hub(**shared) as hub, opened(hub.url, await _bob(hub)) as client:
        await _may(client)
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        hub.hub.services.authority.on_change(lambda *change: heard.put_nowait(change))
        await role("assign", "operator", "--user", BOB, **shared)
        async with asyncio.timeout(WITHIN_S):
            await heard.get()
        assert "run:cancel:any" in await _may(client)
        conversation = await client.conversation()
        await role("assign", "viewer", "--user", BOB, **shared)
        await role("revoke", "operator", "--user", BOB, **shared)
        async with asyncio.timeout(WITHIN_S):
            for _ in range(2):
                await heard.get()
        with pytest.raises(Refused, match="may not"):
            await client.send(conversation, "Hello")
