"""``hub user reset-factor``: at the machine, for who has lost their authenticator."""

import asyncio
from pathlib import Path

import pytest
from sqlmodel import select

from hub.cli import _parser
from hub.cli.users import administer
from hub.faults import Fault
from hub.identity.tokens.seal import Seal
from hub.ids import new_id
from hub.settings import read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Membership, Tenant, TotpFactor, User, now

KEY = b"a key of more than thirty-two bytes"


async def _make(url: str) -> None:
    database = Database(url)
    await database.start()
    await database.migrate()
    user, tenant = User(id=new_id("u"), email="ada@hub.example"), Tenant(id=new_id("t"), name="a")
    async with database.write(EVERY_TENANT) as session:
        session.add_all([user, tenant])
        await session.flush()
        session.add(
            Membership(id=new_id("ms"), user_id=user.id, tenant_id=tenant.id, role_id="owner")
        )
        sealed = Seal(KEY).seal(b"secret", f"totp {user.id}")
        session.add(TotpFactor(user_id=user.id, secret=sealed, confirmed_at=now()))
    await database.close()


async def _look(url: str) -> tuple[int, list[tuple[str, str]]]:
    database = Database(url)
    await database.start()
    async with database.read(EVERY_TENANT) as session:
        left = len((await session.exec(select(TotpFactor))).all())
        entries = (await session.exec(select(AuditEntry))).all()
    await database.close()
    return left, [(entry.action, entry.transport) for entry in entries]


def test_the_operator_takes_a_second_factor_away_and_the_trail_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = read_settings(HUB_DATA_DIR=str(tmp_path)).database
    asyncio.run(_make(url))

    def reset(email: str) -> str:
        words = ["user", "reset-factor", "--data-dir", str(tmp_path), "--email", email]
        given = _parser().parse_args(words)
        settings = read_settings(HUB_DATA_DIR=given.data_dir)
        assert asyncio.run(administer(settings, given)) == 0
        return capsys.readouterr().out

    assert "signs in without one" in reset("Ada@hub.example")
    assert asyncio.run(_look(url)) == (0, [("factor.reset", "cli")])
    assert "has none" in reset("ada@hub.example")
    with pytest.raises(Fault, match="not_found"):
        reset("nobody@hub.example")
