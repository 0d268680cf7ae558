"""``hub usage`` and ``hub quota``: what an operator sees and sets at the machine."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hub.cli import _parser, limits
from hub.faults import Fault
from hub.settings import read_settings
from tests.agents.client import opened
from tests.faults.processes import query
from tests.parts.hub import ServedHub

Command = Callable[..., Coroutine[Any, Any, list[list[str]]]]
OF = ("--tenant", "ada@hub.example")


@pytest.fixture
def hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``await hub("usage", …)``: the words of each line that the command prints."""

    async def run(*words: str, data_dir: Path | None = None) -> list[list[str]]:
        folder = data_dir or tmp_path / ".hub"
        given = _parser().parse_args([*words, "--data-dir", str(folder)])
        settings = read_settings(HUB_DATA_DIR=given.data_dir)
        capsys.readouterr()
        command = {"usage": limits.usage, "quota": limits.quota}[words[0]]
        assert await command(settings, given) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


async def test_an_operator_limits_a_tenant_of_a_hub_that_runs(
    hub: Command, served_hub: ServedHub
) -> None:
    session = await served_hub.sign_up("ada@hub.example")
    _, head, line = await hub("quota", *OF, "--set", "requests.day=1")
    assert head == ["quota", "limit", "used", "reserved", "remaining", "resets", "by"]
    assert (line[:5], line[-1]) == (["requests.day", "1", "0", "0", "1"], "operator")
    said = query(
        served_hub.data_dir,
        "SELECT transport FROM audit_entries WHERE action = 'quota.set'",
    )
    assert said == [{"transport": "cli"}]
    async with opened(served_hub.url, session["access_token"]) as client:
        (quota,) = (await client.call("quota.get", subject="tenant"))["quotas"]
        assert (quota["limit"], quota["source"]) == (1, "operator")
    _, _, line = await hub("quota", *OF, "--email", "Ada@hub.example", "--set", "budget.month=12.5")
    assert line[:2] == ["budget.month", "12.500000"]
    assert len(await hub("quota", *OF, "--set", "requests.day=default")) == 2
    async with opened(served_hub.url, session["access_token"]) as client:
        key = str((await client.call("apikey.create", name="a bot"))["id"])
    title, _, line = await hub("quota", *OF, "--key", key, "--set", "runs=3")
    assert (title[1], line[:2]) == (f"key:{key}", ["runs", "3"])
    await served_hub.sign_up("bob@hub.example")
    with pytest.raises(Fault, match="no API key"):
        await hub("quota", "--tenant", "bob@hub.example", "--key", key)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*OF, "--set", "tokens=5"), "there is no quota"),
        ((*OF, "--set", "runs=many"), "no whole number"),
        ((*OF, "--set", "runs"), "NAME=LIMIT"),
        (("--tenant", "nowhere"), "no tenant nowhere"),
        ((*OF, "--email", "bob@hub.example"), "no user bob@hub.example"),
        ((*OF, "--key", "ak_none"), "no API key ak_none"),
    ],
)
async def test_what_cannot_be_is_refused_and_says_why(
    hub: Command, served_hub: ServedHub, words: tuple[str, ...], why: str
) -> None:
    await served_hub.sign_up("ada@hub.example")
    with pytest.raises(Fault, match=why):
        await hub("quota", *words)


async def test_an_operator_sees_what_a_tenant_has_used(
    hub: Command, served_hub: ServedHub, tmp_path: Path
) -> None:
    session = await served_hub.sign_up("ada@hub.example")
    async with opened(served_hub.url, session["access_token"]) as client:
        conversation = await client.conversation()
        await client.send(conversation, "one two three")
        await client.ended(conversation)
    for by, key in (("model", "echo"), ("day", "20")):
        title, names, line, total = await hub("usage", *OF, "--by", by)
        assert title[1] == "tenant,"
        assert names == [by, "runs", "input", "output", "USD"]
        assert line[0].startswith(key)
        assert line[1:] == total[1:]
        assert (total[0], total[1], total[4]) == ("total", "1", "0.000000")
    with pytest.raises(Fault, match="no hub's data"):
        await hub("usage", data_dir=tmp_path / "elsewhere")
