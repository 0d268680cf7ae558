"""API keys: what they may do, who may make them, and how they end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, delete, select, update

from hub.audit.origin import Origin, acting
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.access.assignments import Assignments, Target
from hub.identity.access.authority import Authority, NoStanding
from hub.identity.access.credentials import Credentials
from hub.identity.access.groups import Groups
from hub.identity.accounts.accounts import Accounts
from hub.identity.keys import api_keys
from hub.identity.keys.api_keys import ApiKeys, Changes, Wanted
from hub.identity.keys.last_use import KeyUse
from hub.identity.keys.service_accounts import NOWHERE, ServiceAccounts
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.api_key_text import make
from hub.rbac.actor import Actor
from hub.rbac.scopes import default_scopes
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ApiKey, AuditEntry, DisabledMember, Membership, Tenant, User, now

PASSWORD = "correct horse battery"


class Place:
    """A tenant with an owner, an admin and a member, and what makes keys there."""

    def __init__(self, database: Database, accounts: Accounts, tokens: Tokens) -> None:
        self.database = database
        self.backplane = MemoryBackplane()
        self.authority = Authority(database, self.backplane)
        self.keys = ApiKeys(database, self.authority.changed)
        self.services = ServiceAccounts(database, self.authority.changed)
        self.credentials = Credentials(tokens, self.authority)
        self.accounts = accounts
        self.tenant_id = ""
        self.people: dict[str, str] = {}

    async def settle(self) -> None:
        await self.backplane.start()
        await self.authority.start()
        for role in ("owner", "admin", "member"):
            user, tenant = await self.accounts.create_user(
                f"{role}@hub.example", PASSWORD, self.tenant_id or "main", role
            )
            self.tenant_id, self.people[role] = tenant.id, user.id

    async def actor(self, role: str) -> Actor:
        return await self.authority.member(self.people[role], self.tenant_id)

    async def key(
        self, role: str = "member", scopes: list[str] | None = None, **more: Any
    ) -> tuple[ApiKey, str]:
        wanted = Wanted("a bot", scopes, **more)
        return await self.keys.create(
            await self.actor(role), self.people[role], self.tenant_id, wanted
        )

    async def shows(self, text: str) -> Actor:
        """Who somebody is that shows this key."""
        return await self.authority.actor(await self.credentials.read(text))

    async def why_not(self, text: str) -> str:
        with pytest.raises(NoStanding) as refusal:
            await self.shows(text)
        return refusal.value.why

    async def change(self, table: Any, id: str, **values: Any) -> None:
        async with self.database.write(EVERY_TENANT) as session:
            await session.exec(update(table).where(col(table.id) == id).values(**values))


@pytest.fixture
async def place(database: Database, accounts: Accounts, tokens: Tokens) -> AsyncIterator[Place]:
    place = Place(database, accounts, tokens)
    await place.settle()
    yield place
    await place.backplane.close()


async def reason(work: Awaitable[Any]) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


# --- what a key may do ----------------------------------------------------------------------------


async def test_a_key_may_do_what_its_scopes_and_its_user_both_may(place: Place) -> None:
    _, text = await place.key(scopes=["conversation:read", "message:send"])
    actor = await place.shows(text)
    assert actor.user_id == place.people["member"]
    assert actor.permissions == {"conversation:read", "message:send"}
    async with place.database.write(EVERY_TENANT) as session:
        of = col(Membership.user_id) == actor.user_id
        await session.exec(update(Membership).where(of).values(role_id="viewer"))
    await place.authority.changed("user", actor.user_id)
    assert (await place.shows(text)).permissions == {"conversation:read"}


async def test_a_key_without_scopes_may_what_its_user_may_but_make_keys(place: Place) -> None:
    _, text = await place.key("admin")
    may = (await place.shows(text)).permissions
    assert may == default_scopes((await place.actor("admin")).permissions)
    assert not [name for name in may if name.startswith(("apikey:", "service:"))]


async def test_a_role_that_grows_gives_an_older_key_nothing(place: Place) -> None:
    _, text = await place.key("member")
    before = (await place.shows(text)).permissions
    async with place.database.write(EVERY_TENANT) as session:
        of = col(Membership.user_id) == place.people["member"]
        await session.exec(update(Membership).where(of).values(role_id="owner"))
    await place.authority.changed("user", place.people["member"])
    assert (await place.shows(text)).permissions == before


@pytest.mark.parametrize(
    ("scopes", "fault"),
    [
        (["conversation:red"], "invalid_params"),
        (["conversation:read:any"], "permission_denied"),
        (["service:create"], "permission_denied"),
    ],
)
async def test_scopes_that_cannot_be_or_are_not_held_are_refused(
    place: Place, scopes: list[str], fault: str
) -> None:
    assert await reason(place.key("member", scopes)) == fault


async def test_a_key_makes_keys_only_if_scoped_to_and_none_that_may_more_than_itself(
    place: Place,
) -> None:
    _, text = await place.key(scopes=["apikey:create", "conversation:read"])
    bot = await place.shows(text)
    made = Wanted("another", None)
    _, child = await place.keys.create(bot, bot.user_id, place.tenant_id, made)
    assert (await place.shows(child)).permissions == {"conversation:read"}
    more = Wanted("more", ["message:send"])
    work = place.keys.create(bot, bot.user_id, place.tenant_id, more)
    assert await reason(work) == "permission_denied"


async def test_a_key_gets_no_secret_of_a_key_that_may_more(place: Place) -> None:
    wide, _ = await place.key(scopes=["conversation:read", "message:send"])
    _, text = await place.key(scopes=["apikey:create", "conversation:read"])
    bot = await place.shows(text)
    assert await reason(place.keys.rotate(bot, place.tenant_id, wide.id)) == "permission_denied"
    widened = Changes(scopes=["message:send"])
    narrow, _ = await place.key(scopes=["conversation:read"])
    work = place.keys.update(bot, place.tenant_id, narrow.id, widened)
    assert await reason(work) == "permission_denied"


async def test_who_may_no_more_when_it_is_done_makes_and_changes_no_key(place: Place) -> None:
    """Whatever they could do when they asked."""
    admin = await place.actor("admin")
    service = (await place.services.create(admin, place.tenant_id, "ticker", "admin")).user.id
    row, _ = await place.keys.create(admin, service, place.tenant_id, Wanted("its", ["run:read"]))
    own, _ = await place.key("admin", ["run:read"])
    async with place.database.write(EVERY_TENANT) as session:
        theirs = col(Membership.user_id) == admin.user_id
        await session.exec(update(Membership).where(theirs).values(role_id="member"))
    for work in (
        place.keys.create(admin, service, place.tenant_id, Wanted("more", ["run:read"])),
        place.keys.create(admin, admin.user_id, place.tenant_id, Wanted("more", ["user:read"])),
        place.keys.update(admin, place.tenant_id, row.id, Changes(scopes=["run:read"])),
        place.keys.update(admin, place.tenant_id, row.id, Changes(forever=True)),
        place.keys.update(admin, place.tenant_id, own.id, Changes(scopes=["user:read"])),
        place.keys.rotate(admin, place.tenant_id, row.id),
    ):
        assert await reason(work) == "permission_denied"
    made, _ = await place.keys.create(admin, admin.user_id, place.tenant_id, Wanted("rest"))
    assert "conversation:read" in made.scopes.split()
    assert "user:read" not in made.scopes.split()
    await place.keys.rotate(admin, place.tenant_id, own.id)


async def test_of_who_may_not_come_in_a_key_is_named_and_ended_but_given_nothing(
    place: Place,
) -> None:
    row, _ = await place.key("member", ["conversation:read"])
    admin, member = await place.actor("admin"), place.people["member"]
    disabled = DisabledMember(tenant_id=place.tenant_id, user_id=member)
    async with place.database.write(place.tenant_id) as session:
        session.add(disabled)
    sooner = Changes(name="a bot that waits", expires_at=now() + timedelta(days=1))
    changed = await place.keys.update(admin, place.tenant_id, row.id, sooner)
    assert (changed.name, changed.expires_at) == (sooner.name, sooner.expires_at)
    for work in (
        place.keys.update(admin, place.tenant_id, row.id, Changes(scopes=["conversation:read"])),
        place.keys.create(admin, member, place.tenant_id, Wanted("another")),
    ):
        assert await reason(work) == "not_found"


async def test_an_administrator_gets_no_secret_of_a_person(place: Place) -> None:
    hers, _ = await place.key("member")
    admin = await place.actor("admin")
    assert await reason(place.keys.rotate(admin, place.tenant_id, hers.id)) == "permission_denied"


# --- how a key ends -------------------------------------------------------------------------------


async def test_each_end_of_a_key_says_why(place: Place) -> None:
    row, text = await place.key(expires_at=now() + timedelta(seconds=60))
    assert await place.shows(text)
    await place.change(Tenant, place.tenant_id, suspended_at=now())
    await place.authority.changed("tenant", place.tenant_id)
    assert await place.why_not(text) == "tenant_suspended"
    await place.change(User, row.user_id, disabled_at=now())
    await place.authority.changed("user", row.user_id)
    assert await place.why_not(text) == "user_disabled"
    await place.change(ApiKey, row.id, expires_at=now())
    await place.authority.changed("session", row.id)
    assert await place.why_not(text) == "key_expired"
    await place.keys.revoke(None, place.tenant_id, row.id)
    assert await place.why_not(text) == "key_revoked"


async def test_a_key_whose_user_is_no_member_any_more_opens_nothing(place: Place) -> None:
    row, text = await place.key()
    async with place.database.write(EVERY_TENANT) as session:
        await session.exec(delete(Membership).where(col(Membership.user_id) == row.user_id))
    await place.authority.changed("user", row.user_id)
    assert await place.why_not(text) == "membership_ended"


async def test_another_secret_and_another_key_open_nothing(place: Place) -> None:
    row, text = await place.key()
    assert await place.shows(text)
    assert await place.why_not(make(row.id)[0]) == "key_revoked"
    assert await place.why_not(make("ak_01ARZ3NDEKTSV4RRFFQ69G5FAV")[0]) == "key_revoked"
    assert await reason(place.shows("ahk_nonsense")) == "unauthenticated"


async def test_a_rotated_secret_is_good_for_its_overlap_and_the_one_before_it_no_more(
    place: Place,
) -> None:
    row, first = await place.key()
    member = await place.actor("member")
    rotated, second = await place.keys.rotate(member, place.tenant_id, row.id, 3_600)
    assert rotated.previous_until is not None
    for text in (first, second):
        assert (await place.shows(text)).session_id == row.id
    claims = await place.credentials.read(first)
    assert claims.expires_at == int(rotated.previous_until.timestamp())
    assert (await place.credentials.read(second)).expires_at is None
    _, third = await place.keys.rotate(member, place.tenant_id, row.id, 3_600)
    assert await place.why_not(first) == "key_revoked"
    for text in (second, third):
        assert await place.shows(text)
    await place.keys.rotate(member, place.tenant_id, row.id, 0)
    for text in (second, third):
        assert await place.why_not(text) == "key_revoked"


async def test_a_key_that_is_over_is_not_rotated(place: Place) -> None:
    member = await place.actor("member")
    row, _ = await place.key(expires_at=now() + timedelta(seconds=60))
    await place.change(ApiKey, row.id, expires_at=now())
    assert await reason(place.keys.rotate(member, place.tenant_id, row.id)) == "conflict"
    await place.keys.update(member, place.tenant_id, row.id, Changes(forever=True))
    await place.keys.rotate(member, place.tenant_id, row.id)
    await place.keys.revoke(None, place.tenant_id, row.id)
    await place.keys.revoke(None, place.tenant_id, row.id)
    assert await reason(place.keys.rotate(member, place.tenant_id, row.id)) == "conflict"
    changed = place.keys.update(member, place.tenant_id, row.id, Changes(name="x"))
    assert await reason(changed) == "conflict"


async def test_a_key_that_is_narrowed_may_less_at_once(place: Place) -> None:
    row, text = await place.key(scopes=["conversation:read", "message:send"])
    assert "message:send" in (await place.shows(text)).permissions
    member = await place.actor("member")
    changes = Changes(name="a reader", scopes=["conversation:read"])
    changed = await place.keys.update(member, place.tenant_id, row.id, changes)
    assert (changed.name, changed.scopes) == ("a reader", "conversation:read")
    assert (await place.shows(text)).permissions == {"conversation:read"}


async def test_nobody_ends_or_changes_a_key_or_a_session_of_who_ranks_above_them(
    place: Place,
) -> None:
    admin, owner = await place.actor("admin"), await place.actor("owner")
    row, text = await place.key("owner")
    changed = place.keys.update(admin, place.tenant_id, row.id, Changes(name="mine"))
    assert await reason(changed) == "permission_denied"
    assert await reason(place.keys.revoke(admin, place.tenant_id, row.id)) == "permission_denied"
    pair = await place.accounts.login("owner@hub.example", PASSWORD)
    ended = place.accounts.revoke_session(pair.session_id, admin)
    assert await reason(ended) == "permission_denied"
    assert await place.shows(text)
    assert await place.accounts.refresh(pair.refresh_token)
    # The other way round it is what owners are for.
    below, below_text = await place.key("admin")
    await place.keys.revoke(owner, place.tenant_id, below.id)
    assert await place.why_not(below_text) == "key_revoked"
    lower = await place.accounts.login("admin@hub.example", PASSWORD)
    await place.accounts.revoke_session(lower.session_id, owner)
    assert await reason(place.accounts.refresh(lower.refresh_token)) == "unauthenticated"


async def test_an_end_in_the_past_is_refused(place: Place) -> None:
    assert await reason(place.key(expires_at=now())) == "invalid_params"


async def test_a_user_has_so_many_keys_and_no_more_races_included(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "MOST", 3)
    outcomes = await asyncio.gather(*(place.key() for _ in range(8)), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, Fault)]
    assert [fault.reason for fault in refused] == ["conflict"] * 5
    there = await place.keys.page(place.tenant_id, place.people["member"], None, 50)
    assert len(there) == 3
    await place.keys.revoke(None, place.tenant_id, there[0].id)
    await place.key()


# --- what is kept ---------------------------------------------------------------------------------


async def test_only_a_hash_is_kept_and_every_deed_is_in_the_trail(place: Place) -> None:
    with acting(Origin(actor_id=place.people["member"], transport="rest")):
        row, text = await place.key()
        member = await place.actor("member")
        await place.keys.update(member, place.tenant_id, row.id, Changes(name="x"))
        _, second = await place.keys.rotate(member, place.tenant_id, row.id)
        await place.keys.revoke(None, place.tenant_id, row.id)
    async with place.database.read(EVERY_TENANT) as session:
        kept = (await session.exec(select(ApiKey))).all()
        trail = (await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))).all()
    told = [entry for entry in trail if entry.resource_kind == "apikey"]
    assert [entry.action for entry in told] == [
        "apikey.create",
        "apikey.update",
        "apikey.rotate",
        "apikey.revoke",
    ]
    assert {(entry.resource_id, entry.actor_id) for entry in told} == {
        (row.id, place.people["member"])
    }
    for secret in (text, second):
        assert secret[30:] not in repr((kept, trail))


async def test_a_use_is_noted_once_a_minute(place: Place) -> None:
    row, _ = await place.key()
    before = row.updated_at
    use = KeyUse(place.database)
    for _ in range(100):
        use.note(row.id, place.tenant_id)
    assert len(use._writing) == 1
    await use.close()
    first = await place.keys.get(place.tenant_id, row.id)
    assert first.last_used_at is not None
    assert first.updated_at == before, "to use a key does not change it"
    elsewhere = KeyUse(place.database)  # another node, which knows of no note
    elsewhere.note(row.id, place.tenant_id)
    await elsewhere.close()
    assert (await place.keys.get(place.tenant_id, row.id)).last_used_at == first.last_used_at
    await place.change(ApiKey, row.id, last_used_at=now() - timedelta(seconds=61))
    third = KeyUse(place.database)
    third.note(row.id, place.tenant_id)
    await third.close()
    again = (await place.keys.get(place.tenant_id, row.id)).last_used_at
    assert again is not None
    assert again > first.last_used_at


async def test_the_list_is_of_ones_own_or_of_the_tenant_and_goes_on_by_cursor(
    place: Place,
) -> None:
    hers = [(await place.key("member"))[0].id for _ in range(3)]
    his, _ = await place.key("admin")
    member = place.people["member"]
    page = await place.keys.page(place.tenant_id, member, None, 2)
    rest = await place.keys.page(place.tenant_id, member, page[-1].id, 2)
    assert [row.id for row in (*page, *rest)] == hers[::-1]
    everybodys = await place.keys.page(place.tenant_id, None, None, 50)
    assert {row.id for row in everybodys} == {*hers, his.id}
    assert await place.keys.page("t_01ARZ3NDEKTSV4RRFFQ69G5FAV", None, None, 50) == []


# --- service accounts -----------------------------------------------------------------------------


async def test_a_service_account_comes_in_by_keys_alone(place: Place) -> None:
    admin = await place.actor("admin")
    account = await place.services.create(admin, place.tenant_id, "ticker")
    assert account.roles == ("service",)
    assert account.user.password_hash is None
    assert account.user.email.endswith(NOWHERE)
    login = place.accounts.login(account.user.email, PASSWORD)
    assert await reason(login) == "unauthenticated"
    assert await reason(place.accounts.access_token_for(account.user.email)) == "not_found"
    row, text = await place.keys.create(admin, account.user.id, place.tenant_id, Wanted("its key"))
    actor = await place.shows(text)
    assert (actor.user_id, actor.roles) == (account.user.id, ("service",))
    assert actor.permissions == default_scopes(actor.permissions)
    assert "message:send" in actor.permissions
    _, second = await place.keys.rotate(admin, place.tenant_id, row.id)
    assert await place.shows(second)


async def test_nobody_makes_or_ends_a_service_above_their_rank(place: Place) -> None:
    admin, owner = await place.actor("admin"), await place.actor("owner")
    work = place.services.create(admin, place.tenant_id, "too high", "owner")
    assert await reason(work) == "permission_denied"
    missing = place.services.create(admin, place.tenant_id, "nothing", "no such role")
    assert await reason(missing) == "not_found"
    high = await place.services.create(owner, place.tenant_id, "high", "owner")
    for deed in (place.services.disable, place.services.delete):
        assert await reason(deed(admin, place.tenant_id, high.user.id)) == "permission_denied"


async def test_ranks_that_groups_give_count_for_who_acts_and_for_the_service(place: Place) -> None:
    admin, owner = await place.actor("admin"), await place.actor("owner")
    groups = Groups(place.database, changed=place.authority.changed)
    assignments = Assignments(place.database, changed=place.authority.changed)
    heads = await groups.create(place.tenant_id, owner, "heads")
    await assignments.give(place.tenant_id, owner, "owner", Target(None, heads.id))
    low = (await place.services.create(admin, place.tenant_id, "low")).user.id
    high = (await place.services.create(owner, place.tenant_id, "high", "owner")).user.id
    await groups.add(place.tenant_id, owner, heads.id, low)
    for deed in (place.services.disable, place.services.delete):
        for service_id in (low, high):
            assert await reason(deed(admin, place.tenant_id, service_id)) == "permission_denied"
    await groups.add(place.tenant_id, owner, heads.id, place.people["admin"])
    risen = await place.actor("admin")
    for service_id in (low, high):
        await place.services.delete(risen, place.tenant_id, service_id)
    assert [each.user_id for each in await groups.members(place.tenant_id, heads.id, None, 9)] == [
        place.people["admin"]
    ]
    assert (await place.services.create(risen, place.tenant_id, "new", "owner")).roles == ("owner",)


async def test_who_may_no_more_when_it_is_done_changes_no_service(place: Place) -> None:
    admin = await place.actor("admin")
    account = await place.services.create(admin, place.tenant_id, "ticker")
    async with place.database.write(EVERY_TENANT) as session:
        theirs = col(Membership.user_id) == admin.user_id
        await session.exec(update(Membership).where(theirs).values(role_id="member"))
    work = place.services.disable(admin, place.tenant_id, account.user.id)
    assert await reason(work) == "permission_denied"
    another = place.services.create(admin, place.tenant_id, "another")
    assert await reason(another) == "permission_denied"


async def test_a_service_that_is_the_last_owner_does_not_end_itself(place: Place) -> None:
    owner = await place.actor("owner")
    service_id = (await place.services.create(owner, place.tenant_id, "heir", "owner")).user.id
    scopes = ["service:write", "service:delete"]
    _, text = await place.keys.create(None, service_id, place.tenant_id, Wanted("its", scopes))
    heir = await place.shows(text)
    async with place.database.write(EVERY_TENANT) as session:
        theirs = col(Membership.user_id) == owner.user_id
        await session.exec(update(Membership).where(theirs).values(role_id="admin"))
    for deed in (place.services.disable, place.services.delete):
        assert await reason(deed(heir, place.tenant_id, service_id)) == "conflict"
    assert await place.shows(text)


async def test_no_key_of_a_service_may_more_than_who_makes_it(place: Place) -> None:
    admin, owner = await place.actor("admin"), await place.actor("owner")
    high = await place.services.create(owner, place.tenant_id, "high", "owner")
    more = Wanted("k", ["message:send", "message:send:any"])
    work = place.keys.create(admin, high.user.id, place.tenant_id, more)
    assert await reason(work) == "permission_denied"
    _, text = await place.keys.create(admin, high.user.id, place.tenant_id, Wanted("k"))
    assert (await place.shows(text)).permissions <= admin.permissions
    full, _ = await place.keys.create(owner, high.user.id, place.tenant_id, Wanted("k"))
    assert await reason(place.keys.rotate(admin, place.tenant_id, full.id)) == "permission_denied"


async def test_a_service_is_disabled_enabled_and_deleted(place: Place) -> None:
    admin = await place.actor("admin")
    account = await place.services.create(admin, place.tenant_id, "ticker")
    service_id = account.user.id
    row, text = await place.keys.create(admin, service_id, place.tenant_id, Wanted("k"))
    await place.services.disable(admin, place.tenant_id, service_id)
    assert await place.why_not(text) == "user_disabled"
    await place.services.enable(admin, place.tenant_id, service_id)
    assert await place.shows(text)
    renamed = await place.services.rename(admin, place.tenant_id, service_id, "tocker")
    assert renamed.user.name == "tocker"
    found = await place.services.named(place.tenant_id, "tocker")
    assert found is not None
    assert found.user.id == service_id
    await place.services.delete(admin, place.tenant_id, service_id)
    assert await place.why_not(text) == "key_revoked"
    assert await place.services.page(place.tenant_id, None, None, 50) == []
    assert await reason(place.services.get(place.tenant_id, service_id)) == "not_found"
    assert (await place.keys.get(place.tenant_id, row.id)).revoked_at is not None


async def test_a_person_is_no_service_account(place: Place) -> None:
    owner = await place.actor("owner")
    for deed in (place.services.disable, place.services.delete):
        work = deed(owner, place.tenant_id, place.people["member"])
        assert await reason(work) == "not_found"
