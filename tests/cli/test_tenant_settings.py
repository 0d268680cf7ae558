"""``hub tenant settings``: what an operator sees and settles for a tenant, at the machine."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hub.cli import _parser, tenants
from hub.cli.changes import FILE, Changes
from hub.faults import Fault
from hub.settings import read_settings
from hub.storage.tenant_settings import TenantSettings
from tests.agents.client import Client, Refused, opened
from tests.cli.conftest import Hub
from tests.faults.processes import query
from tests.parts.hub import ServedHub

ADA = "ada@hub.example"

Command = Callable[..., Coroutine[Any, Any, list[str]]]


@pytest.fixture
def settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``await settings("acme", "answer_cache=true")``: the lines that the command prints."""

    async def run(*words: str) -> list[str]:
        folder = str(tmp_path / ".hub")
        given = _parser().parse_args(["tenant", "settings", *words, "--data-dir", folder])
        capsys.readouterr()
        assert await tenants._run(read_settings(HUB_DATA_DIR=given.data_dir), given) == 0
        return capsys.readouterr().out.splitlines()

    return run


async def _settled(client: Client) -> dict[str, Any]:
    tenant_id = (await client.call("session.info"))["tenant_id"]
    settled: dict[str, Any] = (await client.call("tenant.get", tenant_id=tenant_id))["settings"]
    return settled


async def test_what_an_operator_settles_acts_on_a_hub_that_runs_and_is_audited(
    settings: Command, served_hub: ServedHub
) -> None:
    session = await served_hub.sign_up(ADA)
    keys = [line.partition("=")[0] for line in await settings(ADA)]
    assert keys == list(TenantSettings.model_fields)
    changes = Changes(served_hub.data_dir / FILE)
    async with opened(served_hub.url, session["access_token"]) as client:
        printed = await settings(
            ADA, "display_name=Ada & Co", "invitation_domains=hub.example, lab.example",
            "audit_retention_days=40", "answer_cache=on",
        )  # fmt: skip
        assert printed == await settings(ADA)
        assert printed == [
            "display_name=Ada & Co", "default_model=", "invitation_domains=hub.example,lab.example",
            "answer_cache=true", "audit_retention_days=40",
        ]  # fmt: skip
        assert await _settled(client) == {
            "display_name": "Ada & Co", "invitation_domains": ["hub.example", "lab.example"],
            "answer_cache": True, "audit_retention_days": 40,
        }  # fmt: skip
        with pytest.raises(Refused, match=r"lab\.example"):
            await client.call("invitation.create", email="bob@elsewhere.example")
        taken = await settings(ADA, "invitation_domains=", "answer_cache=")
        assert "invitation_domains=" in taken
        assert "answer_cache=false" in taken
        await client.call("invitation.create", email="bob@elsewhere.example")
        tenant_id = (await client.call("session.info"))["tenant_id"]
    assert changes.news() == [("tenant", tenant_id)] * 2
    entries = query(
        served_hub.data_dir,
        "SELECT actor_id, transport, details FROM audit_entries WHERE action = 'tenant.update'"
        " ORDER BY seq",
    )
    assert [(each["actor_id"], each["transport"]) for each in entries] == [(None, "cli")] * 2
    assert "answer_cache" in entries[0]["details"]
    assert "Ada & Co" not in entries[0]["details"], "what was changed, not to what"


async def test_what_cannot_be_settled_is_told_and_nothing_is_changed(
    settings: Command, served_hub: ServedHub
) -> None:
    await served_hub.sign_up(ADA)
    before = await settings(ADA)
    for word, said in (
        ("colour=red", "no setting 'colour'; there are: display_name"),
        ("answer_cache", "write KEY=VALUE"),
        ("answer_cache=maybe", "answer_cache: Input should be a valid boolean"),
        ("audit_retention_days=0", "audit_retention_days: Input should be greater"),
        ("audit_retention_days=29", "at least 30 here"),
        ("audit_retention_days=soon", "audit_retention_days: Input should be a valid integer"),
        ("invitation_domains=Not A Domain", "invitation_domains: String should match"),
        ("=x", "no setting ''"),
        ("display_name=Two", "display_name is given twice"),
    ):
        with pytest.raises(Fault) as refused:
            await settings(ADA, "display_name=Other", word)
        assert refused.value.reason == "invalid_params"
        assert said in refused.value.message
    with pytest.raises(Fault, match="no tenant nobody"):
        await settings("nobody", "display_name=Nobody")
    assert await settings(ADA) == before


async def test_what_people_have_called_a_tenant_does_nothing_to_the_terminal(
    settings: Command, served_hub: ServedHub
) -> None:
    await served_hub.sign_up(ADA)
    first, *_ = await settings(ADA, "display_name=a\x1b[2Jb")
    assert first == "display_name=a\N{REPLACEMENT CHARACTER}[2Jb"


def test_the_help_names_every_setting_with_what_it_means(hub: Hub) -> None:
    shown = hub("tenant", "settings", "--help").out
    for name, field in TenantSettings.model_fields.items():
        assert f"{name}: {field.description}" in shown
