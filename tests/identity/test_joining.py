"""Who has an account and no tenant to enter accepts an invitation at the sign-in."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pyotp
import pytest
from sqlmodel import col, delete, select, update

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.access.owners import lock
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.joining import join
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.users import Users
from hub.identity.factors.second_factors import Factors
from hub.identity.sessions.login_sessions import TokenPair
from hub.identity.sessions.throttle import Throttle
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.seal import Seal
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Invitation, Membership, User, now
from hub.tenancy.members import Members
from hub.tenancy.tenants import Tenants
from tests.identity.houses import waiting
from tests.interaction.drivers import eventually

EMAIL, PASSWORD = "ada@hub.example", "correct horse battery"


async def reason(work: Awaitable[Any]) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


@pytest.fixture
async def ada(accounts: Accounts, database: Database) -> User:
    """Somebody who belongs nowhere any more."""
    user, _ = await accounts.register(EMAIL, PASSWORD)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(delete(Membership).where(col(Membership.user_id) == user.id))
    return user


@pytest.fixture
async def house(accounts: Accounts) -> str:
    """A tenant that invites."""
    _, tenant = await accounts.create_user("boss@hub.example", PASSWORD, "house", "owner")
    return tenant.id


async def test_an_invitation_opens_the_tenant_that_it_is_for_once(
    accounts: Accounts, database: Database, tokens: Tokens, ada: User, house: str
) -> None:
    assert await reason(accounts.login(EMAIL, PASSWORD)) == "unauthenticated"
    code = await accounts.invite(house, "operator")
    pair = await accounts.login(EMAIL, PASSWORD, invitation=code)
    claims = tokens.read(pair.access_token)
    assert (claims.user_id, claims.tenant_id) == (ada.id, house)
    assert await reason(accounts.login(EMAIL, PASSWORD, invitation=code)) == "permission_denied"
    assert isinstance(await accounts.login(EMAIL, PASSWORD), TokenPair)
    async with database.read(house) as session:
        held = (await session.exec(select(Membership).where(Membership.user_id == ada.id))).one()
        rows = await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))
        told = [(row.action, row.actor_id) for row in rows.all()]
    assert held.role_id == "operator"
    assert told[-3:] == [
        ("invitation.accept", ada.id), ("account.login", ada.id), ("account.login", ada.id),
    ]  # fmt: skip


@pytest.fixture
def quiet(database: Database, passwords: Passwords, tokens: Tokens, settings: Settings) -> Accounts:
    """Accounts of a hub where an address must be verified."""
    verified = settings.model_copy(update={"require_verified": True})
    return Accounts(database, passwords, tokens, verified)


async def nobody_is_told(kind: str, id: str) -> None:
    pass


async def test_who_registers_where_addresses_are_verified_comes_in_as_theirs_is(
    quiet: Accounts, database: Database, tokens: Tokens, house: str
) -> None:
    code = await quiet.invite(house, "operator")
    user, _ = await quiet.register(EMAIL, PASSWORD, invitation=code)
    members = Members(database)
    assert [each.email for each in await members.listed(house, None, 10)] == ["boss@hub.example"]
    assert [each.email for each in await members.invited(house, None, 10)] == [EMAIL]
    assert await reason(quiet.login(EMAIL, PASSWORD)) == "unauthenticated"
    await Users(database, nobody_is_told).set_verified(user.id)
    assert await members.invited(house, None, 10) == []
    pair = await quiet.login(EMAIL, PASSWORD)
    assert tokens.read(pair.access_token).tenant_id == house
    async with database.read(house) as session:
        held = (await session.exec(select(Membership).where(Membership.user_id == user.id))).one()
        rows = await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))
        told = [(row.action, row.resource_kind, row.actor_id) for row in rows.all()]
    assert held.role_id == "operator"
    assert told[-4:] == [
        ("account.register", "invitation", None), ("invitation.accept", "user", user.id),
        ("account.verify", "user", None), ("account.login", "session", user.id),
    ]  # fmt: skip


async def test_an_invitation_that_is_no_good_any_more_lets_nobody_in_as_they_verify(
    quiet: Accounts, database: Database, house: str
) -> None:
    _, other = await quiet.create_user("other@hub.example", PASSWORD, "other", "owner")
    members, tenants = Members(database), Tenants(database, grace_days=1)
    users = Users(database, nobody_is_told)
    revoked, _ = await quiet.register(
        EMAIL, PASSWORD, invitation=await quiet.invite(house, "member")
    )
    (waiting,) = await members.invited(house, None, 10)
    await members.revoke_invitation(house, waiting.id)
    closed, _ = await quiet.register(
        "bob@hub.example", PASSWORD, invitation=await quiet.invite(other.id, "member")
    )
    await tenants.suspend(other.id, by=None)
    for user in (revoked, closed):
        await users.set_verified(user.id)
        assert (await users.find(user.email)).verified_at is not None
        assert await reason(quiet.login(user.email, PASSWORD)) == "unauthenticated"
    # Whoever invites them anew lets them in.
    code = await quiet.invite(house, "member")
    assert isinstance(await quiet.login(EMAIL, PASSWORD, invitation=code), TokenPair)
    await tenants.resume(other.id, by=None)
    (kept,) = await members.invited(other.id, None, 10)
    assert kept.email == "bob@hub.example"


async def test_without_the_password_an_invitation_opens_nothing_and_is_still_good(
    accounts: Accounts, ada: User, house: str
) -> None:
    code = await accounts.invite(house, "member")
    for email, password in ((EMAIL, "not the password"), ("nobody@hub.example", PASSWORD)):
        assert await reason(accounts.login(email, password, invitation=code)) == "unauthenticated"
    await accounts.login(EMAIL, PASSWORD, invitation=code)


async def test_what_is_no_invitation_is_refused_whoever_shows_it(
    accounts: Accounts, ada: User, house: str
) -> None:
    theirs = await accounts.invite(house, "member", email="other@hub.example")
    for code in ("made up", theirs):
        for email in (EMAIL, "nobody@hub.example"):
            refused = accounts.login(email, PASSWORD, invitation=code)
            assert await reason(refused) == "permission_denied"


async def test_who_may_enter_nowhere_does_not_by_an_invitation(
    accounts: Accounts, database: Database, ada: User, house: str
) -> None:
    code = await accounts.invite(house, "member")
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(User).where(col(User.id) == ada.id).values(disabled_at=now()))
    with pytest.raises(Fault, match="Wrong e-mail address or password"):
        await accounts.login(EMAIL, PASSWORD, invitation=code)


async def test_a_member_is_told_so_after_the_password_alone_and_keeps_the_invitation(
    accounts: Accounts, house: str
) -> None:
    code = await accounts.invite(house, "member")
    wrong = accounts.login("boss@hub.example", "not the password", invitation=code)
    assert await reason(wrong) == "unauthenticated"
    again = accounts.login("boss@hub.example", PASSWORD, invitation=code)
    assert await reason(again) == "conflict"
    await accounts.register("new@hub.example", PASSWORD, invitation=code)


async def test_one_invitation_that_is_shown_many_times_at_once_makes_one_membership(
    accounts: Accounts, database: Database, ada: User, house: str
) -> None:
    code = await accounts.invite(house, "member")
    outcomes = await asyncio.gather(
        *(accounts.login(EMAIL, PASSWORD, invitation=code) for _ in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, TokenPair) for each in outcomes) == 1
    assert {each.reason for each in outcomes if isinstance(each, Fault)} == {"permission_denied"}
    async with database.read(house) as session:
        held = await session.exec(select(Membership).where(Membership.user_id == ada.id))
        assert len(held.all()) == 1


async def test_an_invitation_that_is_made_void_as_it_is_shown_opens_nothing(
    accounts: Accounts, database: Database, ada: User, house: str
) -> None:
    """Whoever removes who invites holds the tenant, and comes to the invitation after that."""
    code = await accounts.invite(house, "member")
    async with database.write(house) as session:
        await lock(session, house)
        joining = asyncio.create_task(join_by(database, ada.id, code))

        async def waits() -> bool:
            return database.embedded or await waiting(database) > 0

        await eventually(waits)
        await session.exec(delete(Invitation))
    assert await reason(joining) == "permission_denied"


async def join_by(database: Database, user_id: str, code: str) -> None:
    async with database.write(EVERY_TENANT) as session:
        await join(session, user_id, code)


async def test_codes_of_invitations_are_guessed_no_faster_than_passwords(
    database: Database, passwords: Passwords, tokens: Tokens, settings: Settings, ada: User
) -> None:
    throttle = Throttle(MemoryBackplane())
    accounts = Accounts(database, passwords, tokens, settings, throttle=throttle)
    said = [
        await reason(accounts.login(EMAIL, PASSWORD, address="192.0.2.1", invitation=f"{at}"))
        for at in range(30)
    ]
    assert said[0] == "permission_denied"
    assert said[-1] == "rate_limited"


async def test_who_has_a_second_factor_joins_when_it_was_shown(
    accounts: Accounts, database: Database, passwords: Passwords, ada: User, house: str
) -> None:
    backplane = MemoryBackplane()

    async def changed(kind: str, id: str) -> None:
        return None

    factors = Factors(
        database, passwords, Seal(b"a key of more than thirty-two bytes"), backplane,
        accounts.login_sessions, changed=changed, clock=lambda: 1_800_000_000.0,
    )  # fmt: skip
    hotp = pyotp.HOTP((await factors.enrol(ada.id, house)).secret)
    await factors.confirm(ada.id, house, hotp.at(60_000_000))
    code = await accounts.invite(house, "member")
    with pytest.raises(Fault) as caught:
        await accounts.login(EMAIL, PASSWORD, invitation=code)
    assert caught.value.reason == "second_factor_required"
    challenge = caught.value.details["challenge"]

    async def memberships() -> int:
        async with database.read(house) as session:
            held = await session.exec(select(Membership).where(Membership.user_id == ada.id))
            return len(held.all())

    wrong = factors.continue_login(challenge, "000000", invitation=code)
    assert await reason(wrong) == "unauthenticated"
    assert await memberships() == 0, "a password alone joins nothing"
    _, other = await accounts.create_user("other@hub.example", PASSWORD, "other", "owner")
    foreign = await accounts.invite(other.id, "owner")
    right = hotp.at(60_000_001)
    refused = factors.continue_login(challenge, right, invitation=foreign)
    assert await reason(refused) == "permission_denied"
    pair = await factors.continue_login(challenge, right, invitation=code)
    assert isinstance(pair, TokenPair)
    assert await memberships() == 1
