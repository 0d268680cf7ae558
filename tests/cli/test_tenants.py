"""``hub tenant``: the life of tenants, at the machine."""

import json
import re
from pathlib import Path

from tests.cli.test_commands import Hub, hub
from tests.parts.postgres import SUPERUSER

__all__ = ["hub"]  # the fixture


async def test_a_tenant_is_made_closed_opened_deleted_and_restored(
    hub: Hub, tmp_path: Path
) -> None:
    made = await hub("tenant", "create", "acme", "--owner", "Ada@hub.example")
    assert made.status == 0, made.err
    # The hub begins with the operator's own tenant, not with this one.
    assert json.loads((tmp_path / ".hub/administrator.json").read_text())["password"] in made.out
    (id,) = re.findall(r"^(t_\w+) active acme$", made.out, re.MULTILINE)
    assert "Invitation of ada@hub.example" in made.out
    listed = (await hub("tenant", "list")).out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in listed] == ["active default", "active acme"]
    for words, state in (
        (("suspend", "acme"), "suspended"),
        (("resume", id), "active"),
        (("delete", id, "--confirm", "acme"), "deleted"),
        (("restore", "acme"), "active"),
    ):
        told = await hub("tenant", *words)
        assert told.status == 0, told.err
        assert told.out.startswith(f"{id} {state} acme"), told.out
    for words, said in (
        (("delete", "acme"), "--confirm"),
        (("delete", "acme", "--confirm", "no"), "name of the tenant"),
        (("suspend", "default"), "began with"),
        (("suspend", "nobody"), "no tenant nobody"),
        (("create", "acme"), "is a tenant of this name"),
        (("create", "a@b"), "ASCII letters"),
        (("create", "other", "--owner", "nonsense"), "e-mail"),
    ):
        failed = await hub("tenant", *words)
        assert failed.status == 1
        assert said in failed.err, failed.err


async def test_where_there_is_no_hub_nothing_is_made(hub: Hub, tmp_path: Path) -> None:
    ended = await hub("tenant", "list")
    assert ended.status == 1
    assert "no hub's data" in ended.err
    assert not (tmp_path / ".hub").exists()


async def test_doctor_says_when_no_wall_holds_the_hubs_role(hub: Hub, postgres_url: str) -> None:
    name = "HUB_DATABASE_URL"
    ended = await hub("doctor", **{name: postgres_url})
    assert "ok       database: postgresql+asyncpg answers" in ended.out, ended.out
    powerful = postgres_url.replace("//hub@", f"//{SUPERUSER}@")
    ended = await hub("doctor", **{name: powerful})
    (line,) = [line for line in ended.out.splitlines() if " database: " in line]
    assert line.startswith("PROBLEM")
    assert "superuser" in line
