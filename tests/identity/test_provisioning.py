"""Provisioning beside what else is done with a user at the moment of a sign-in."""

import asyncio
import json

from sqlmodel import col, delete, select

from hub.backplane.memory import MemoryBackplane
from hub.identity.access.authority import Authority
from hub.identity.access.owners import lock
from hub.identity.accounts.accounts import Accounts
from hub.identity.providers.provisioning import Provisioning
from hub.settings import read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ProviderIdentity
from tests.identity.houses import House, waiting
from tests.interaction.drivers import eventually

CLAIMS = {"sub": "ada", "email": "ada@corp.example", "email_verified": True}


async def test_a_sign_in_and_a_deletion_of_its_user_do_not_wait_for_each_other_in_a_circle(
    accounts: Accounts, database: Database, house: House
) -> None:
    """Whoever deletes a user holds the tenant, and comes to their identity after that."""
    provider = {"name": "main", "issuer": "https://id.corp.example", "client_id": "hub"}
    given = {**provider, "client_secret": "a-secret", "tenant": house.tenant_id, "role": "member"}
    [settings] = read_settings(HUB_OIDC_PROVIDERS=json.dumps([given])).providers
    authority = Authority(database, MemoryBackplane())
    provisioning = Provisioning(database, accounts.login_sessions, changed=authority.changed)
    assert await provisioning.admit(settings, CLAIMS, None)
    async with database.write(EVERY_TENANT) as session:
        await lock(session, house.tenant_id)
        signing_in = asyncio.create_task(provisioning.admit(settings, CLAIMS, None))
        if not database.embedded:

            async def waits() -> bool:
                return await waiting(database) == 1

            await eventually(waits)
        await session.exec(delete(ProviderIdentity).where(col(ProviderIdentity.subject) == "ada"))
    await asyncio.wait({signing_in})
    async with database.read(EVERY_TENANT) as session:
        identities = len((await session.exec(select(ProviderIdentity))).all())
    # The address has an account still, which is not linked any more.
    assert getattr(signing_in.exception(), "reason", None) == "conflict"
    assert identities == 0
