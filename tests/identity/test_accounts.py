"""Accounts: who gets in, by which door, and who does not learn why not."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import col, select, update

from hub.faults import Fault
from hub.identity.accounts.accounts import ADMINISTRATOR, Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.tokens.access_tokens import Tokens
from hub.ids import new_id
from hub.settings import Settings, read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    Invitation,
    LoginLink,
    LoginSession,
    Membership,
    Role,
    Tenant,
    User,
    now,
)

EMAIL = "ada@hub.example"
PASSWORD = "correct horse battery"


async def reason(work: Awaitable[Any]) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


def with_policy(
    policy: str, database: Database, passwords: Passwords, tokens: Tokens
) -> Accounts:  # fmt: skip
    settings = read_settings(HUB_REGISTRATION=policy, HUB_BCRYPT_COST=4)
    return Accounts(database, passwords, tokens, settings)


async def role_of(database: Database, user: User, tenant: Tenant) -> str:
    async with database.read(tenant.id) as session:
        statement = select(Membership.role_id).where(Membership.user_id == user.id)
        return (await session.exec(statement)).one()


# --- a crowd at the door --------------------------------------------------------------------------


async def test_who_cannot_wait_to_sign_in_is_refused_before_the_database_is_asked(
    database: Database, tokens: Tokens, settings: Settings
) -> None:
    passwords = Passwords(cost=12, concurrency=1)
    crowded = Accounts(database, passwords, tokens, settings)
    crowd = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(65)]
    await asyncio.sleep(0)
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engines = {database._reader.sync_engine, database._writer.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    assert await reason(crowded.login(EMAIL, PASSWORD)) == "rate_limited"
    assert await reason(crowded.register(EMAIL, PASSWORD)) == "rate_limited"
    assert not asked
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    for one in crowd:
        one.cancel()
    passwords.close()


# --- registering ----------------------------------------------------------------------------------


async def test_who_registers_owns_a_tenant_of_their_own(
    accounts: Accounts, database: Database
) -> None:
    user, tenant = await accounts.register(EMAIL, PASSWORD, "Ada")
    assert (user.email, user.name) == (EMAIL, "Ada")
    assert await role_of(database, user, tenant) == "owner"
    assert user.password_hash is not None
    assert PASSWORD not in user.password_hash
    _, another = await accounts.register("bob@hub.example", PASSWORD)
    assert another.id != tenant.id


@pytest.mark.parametrize("again", [EMAIL, "ADA@hub.example", "Ada@HUB.EXAMPLE"])
async def test_an_address_registers_once(
    accounts: Accounts, database: Database, again: str
) -> None:
    await accounts.register(EMAIL, PASSWORD)
    assert await reason(accounts.register(again, PASSWORD)) == "conflict"
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Tenant))).all()) == 1


async def test_an_address_that_registers_many_times_at_once_registers_once(
    accounts: Accounts, database: Database
) -> None:
    outcomes = await asyncio.gather(
        *(accounts.register(EMAIL, PASSWORD) for _ in range(10)), return_exceptions=True
    )
    faults = [outcome.reason for outcome in outcomes if isinstance(outcome, Fault)]
    assert faults == ["conflict"] * 9
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Membership))).all()) == 1


@pytest.mark.parametrize("email", ["", "ada", "ada@", "@hub.example", "a b@hub.example", "a\0@b.c"])
async def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    assert await reason(accounts.register(email, PASSWORD)) == "invalid_params"


async def test_a_short_password_is_refused(accounts: Accounts) -> None:
    assert await reason(accounts.register(EMAIL, "short")) == "invalid_params"


async def test_nobody_registers_when_it_is_off(
    database: Database, passwords: Passwords, tokens: Tokens
) -> None:
    accounts = with_policy("off", database, passwords, tokens)
    assert await reason(accounts.register(EMAIL, PASSWORD)) == "permission_denied"
    _, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "member")
    refused = accounts.register(EMAIL, PASSWORD, invitation=code)
    assert await reason(refused) == "permission_denied"


async def test_an_invitation_joins_its_tenant_once(
    database: Database, passwords: Passwords, tokens: Tokens
) -> None:
    accounts = with_policy("invite", database, passwords, tokens)
    assert await reason(accounts.register(EMAIL, PASSWORD)) == "permission_denied"
    owner, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "viewer", owner.id)
    wrong = accounts.register(EMAIL, PASSWORD, invitation=code + "x")
    assert await reason(wrong) == "permission_denied"
    user, joined = await accounts.register(EMAIL, PASSWORD, invitation=code)
    assert joined.id == tenant.id
    assert await role_of(database, user, tenant) == "viewer"
    again = accounts.register("bob@hub.example", PASSWORD, invitation=code)
    assert await reason(again) == "permission_denied"


async def test_an_invitation_that_many_accept_at_once_lets_one_in(accounts: Accounts) -> None:
    _, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "member")
    outcomes = await asyncio.gather(
        *(
            accounts.register(f"user{number}@hub.example", PASSWORD, invitation=code)
            for number in range(10)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_an_invitation_refused_for_the_account_can_still_be_used(accounts: Accounts) -> None:
    _, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "member")
    refused = accounts.register("op@hub.example", PASSWORD, invitation=code)
    assert await reason(refused) == "conflict"
    _, joined = await accounts.register(EMAIL, PASSWORD, invitation=code)
    assert joined.id == tenant.id


async def test_an_invitation_for_someone_is_theirs_alone(accounts: Accounts) -> None:
    _, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "member", email="Ada@hub.example")
    other = accounts.register("eve@hub.example", PASSWORD, invitation=code)
    assert await reason(other) == "permission_denied"
    await accounts.register(EMAIL, PASSWORD, invitation=code)


async def test_an_old_invitation_is_refused(accounts: Accounts, database: Database) -> None:
    _, tenant = await accounts.create_user("op@hub.example", PASSWORD, "main", "owner")
    code = await accounts.invite(tenant.id, "member")
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(Invitation).values(expires_at=now()))
    refused = accounts.register(EMAIL, PASSWORD, invitation=code)
    assert await reason(refused) == "permission_denied"


async def test_an_invitation_gives_no_role_of_another_tenant(
    accounts: Accounts, database: Database
) -> None:
    _, one = await accounts.create_user("one@hub.example", PASSWORD, "one", "owner")
    _, two = await accounts.create_user("two@hub.example", PASSWORD, "two", "owner")
    async with database.write(EVERY_TENANT) as session:
        session.add(Role(id="role_two", tenant_id=two.id, name="special", rank=5))
    assert await reason(accounts.invite(one.id, "role_two")) == "invalid_params"
    assert await reason(accounts.invite(one.id, "nothing")) == "invalid_params"
    assert await accounts.invite(two.id, "role_two")


# --- signing in -----------------------------------------------------------------------------------


async def test_the_right_password_signs_in(
    accounts: Accounts, database: Database, tokens: Tokens, settings: Settings
) -> None:
    user, tenant = await accounts.register(EMAIL, PASSWORD)
    pair = await accounts.login("ADA@hub.example", PASSWORD, device="browser", address="::1")
    claims = tokens.read(pair.access_token)
    assert (claims.user_id, claims.tenant_id) == (user.id, tenant.id)
    assert claims.session_id == pair.session_id
    assert pair.expires_in == settings.access_token_minutes * 60
    async with database.read(tenant.id) as session:
        row = (await session.exec(select(LoginSession))).one()
    assert (row.id, row.device, row.address) == (pair.session_id, "browser", "::1")


async def test_every_refusal_to_sign_in_is_the_same(accounts: Accounts, database: Database) -> None:
    await accounts.register(EMAIL, PASSWORD)
    disabled, _ = await accounts.register("off@hub.example", PASSWORD)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(
            update(User).where(col(User.id) == disabled.id).values(disabled_at=now())
        )
        session.add(User(id=new_id("u"), email="nopassword@hub.example"))
    attempts = [
        accounts.login(EMAIL, "wrong horse battery"),
        accounts.login("nobody@hub.example", PASSWORD),
        accounts.login("not an address", PASSWORD),
        accounts.login("", ""),
        accounts.login("off@hub.example", PASSWORD),
        accounts.login("nopassword@hub.example", PASSWORD),
        accounts.login(EMAIL, PASSWORD, tenant="no such tenant"),
    ]
    said = set()
    for attempt in attempts:
        with pytest.raises(Fault) as caught:
            await attempt
        said.add((caught.value.reason, caught.value.message, len(caught.value.details)))
    assert said == {("unauthenticated", "Wrong e-mail address or password.", 0)}


async def test_an_unknown_address_costs_as_many_hashes_as_a_known_one(
    database: Database, tokens: Tokens, settings: Settings
) -> None:
    class Counting(Passwords):
        checked = 0

        async def verify(self, password: str, stored: str | None) -> Any:
            Counting.checked += 1
            return await super().verify(password, stored)

    passwords = Counting(cost=4)
    accounts = Accounts(database, passwords, tokens, settings)
    await accounts.register(EMAIL, PASSWORD)
    for email in (EMAIL, "nobody@hub.example", "not an address"):
        await reason(accounts.login(email, "wrong horse battery"))
    passwords.close()
    assert Counting.checked == 3


async def test_signing_in_renews_a_hash_of_another_cost(
    database: Database, tokens: Tokens, settings: Settings
) -> None:
    older, newer = Passwords(cost=4), Passwords(cost=5)
    await Accounts(database, older, tokens, settings).register(EMAIL, PASSWORD)
    accounts = Accounts(database, newer, tokens, settings)
    await accounts.login(EMAIL, PASSWORD)
    async with database.read(EVERY_TENANT) as session:
        stored = (await session.exec(select(User.password_hash))).one()
    assert await newer.verify(PASSWORD, stored) == (True, False)
    await accounts.login(EMAIL, PASSWORD)
    older.close()
    newer.close()


async def test_of_several_tenants_the_oldest_is_entered_or_the_one_named(
    accounts: Accounts, database: Database, tokens: Tokens
) -> None:
    user, first = await accounts.register(EMAIL, PASSWORD, "Ada")
    _, second = await accounts.register("bob@hub.example", PASSWORD, "Bob")
    async with database.write(EVERY_TENANT) as session:
        session.add(
            Membership(id=new_id("ms"), tenant_id=second.id, user_id=user.id, role_id="viewer")
        )

    async def entered(tenant: str | None) -> str:
        return tokens.read((await accounts.login(EMAIL, PASSWORD, tenant)).access_token).tenant_id

    assert await entered(None) == first.id
    assert await entered(second.id) == second.id
    assert await entered("bob@hub.example") == second.id
    async with database.write(EVERY_TENANT) as session:
        await session.exec(
            update(Tenant).where(col(Tenant.id) == first.id).values(suspended_at=now())
        )
    assert await entered(None) == second.id
    assert await reason(entered(first.id)) == "unauthenticated"


# --- other doors ----------------------------------------------------------------------------------


async def test_a_login_link_signs_in_once(accounts: Accounts, tokens: Tokens) -> None:
    user, tenant = await accounts.register(EMAIL, PASSWORD)
    code = await accounts.login_link(user.id, tenant.id)
    pair = await accounts.redeem(code)
    assert tokens.read(pair.access_token).user_id == user.id
    assert await reason(accounts.redeem(code)) == "unauthenticated"
    assert await reason(accounts.redeem("x" + code)) == "unauthenticated"


async def test_a_login_link_that_many_redeem_at_once_lets_one_in(accounts: Accounts) -> None:
    user, tenant = await accounts.register(EMAIL, PASSWORD)
    code = await accounts.login_link(user.id, tenant.id)
    outcomes = await asyncio.gather(
        *(accounts.redeem(code) for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_an_old_login_link_is_refused(accounts: Accounts, database: Database) -> None:
    user, tenant = await accounts.register(EMAIL, PASSWORD)
    code = await accounts.login_link(user.id, tenant.id)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(LoginLink).values(expires_at=now()))
    assert await reason(accounts.redeem(code)) == "unauthenticated"


async def test_the_first_start_makes_an_administrator(accounts: Accounts, tokens: Tokens) -> None:
    made = await accounts.ensure_administrator()
    assert made is not None
    email, password = made
    assert email == ADMINISTRATOR
    pair = await accounts.login(email, password, "default")
    assert tokens.read(pair.access_token).session_id == pair.session_id
    assert await accounts.ensure_administrator() is None


async def test_nodes_that_start_at_once_make_one_administrator(
    accounts: Accounts, database: Database
) -> None:
    outcomes = await asyncio.gather(*(accounts.ensure_administrator() for _ in range(5)))
    assert sum(outcome is not None for outcome in outcomes) == 1
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Tenant))).all()) == 1


async def test_no_administrator_is_made_where_users_are(accounts: Accounts) -> None:
    await accounts.register(EMAIL, PASSWORD)
    assert await accounts.ensure_administrator() is None


async def test_the_operator_creates_users_in_a_tenant_by_name(
    accounts: Accounts, database: Database
) -> None:
    one, tenant = await accounts.create_user("one@hub.example", PASSWORD, "main", "admin")
    two, same = await accounts.create_user("two@hub.example", PASSWORD, "main", "viewer")
    assert same.id == tenant.id
    assert await role_of(database, one, tenant) == "admin"
    assert await role_of(database, two, tenant) == "viewer"
    again = accounts.create_user("two@hub.example", PASSWORD, "main", "viewer")
    assert await reason(again) == "conflict"
    unknown = accounts.create_user("three@hub.example", PASSWORD, "other", "emperor")
    assert await reason(unknown) == "invalid_params"
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Tenant))).all()) == 1


@pytest.mark.parametrize("name", ["default", "acme"])
async def test_who_registers_cannot_wait_for_the_operators_users_under_a_tenants_name(
    accounts: Accounts, name: str
) -> None:
    _, theirs = await accounts.register("eve@hub.example", PASSWORD, name)
    _, place = await accounts.create_user(EMAIL, PASSWORD, name, "member")
    assert place.name == name
    assert place.id != theirs.id
    by_address = accounts.create_user("bob@hub.example", PASSWORD, theirs.name, "member")
    assert await reason(by_address) == "invalid_params"


async def test_the_operator_creates_users_in_any_tenant_by_its_id(accounts: Accounts) -> None:
    _, theirs = await accounts.register("eve@hub.example", PASSWORD)
    _, place = await accounts.create_user(EMAIL, PASSWORD, theirs.id, "member")
    assert place.id == theirs.id
    nowhere = accounts.create_user("bob@hub.example", PASSWORD, new_id("t"), "member")
    assert await reason(nowhere) == "not_found"


async def test_the_operator_gets_an_access_token_for_an_address(
    accounts: Accounts, tokens: Tokens
) -> None:
    user, _ = await accounts.register(EMAIL, PASSWORD)
    assert tokens.read(await accounts.access_token_for(EMAIL)).user_id == user.id
    assert await reason(accounts.access_token_for("nobody@hub.example")) == "not_found"
