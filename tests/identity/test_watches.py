"""Watches: who is told of a changed standing, what a change touches, and what a lost word costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import delete
from sqlmodel import col, update

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.access.authority import Authority, NoStanding
from hub.identity.access.standing import Key, Member
from hub.identity.access.watches import FRESH_S, SWEEP_S, TICK_S, Watches
from hub.identity.accounts.accounts import Accounts
from hub.identity.tokens.access_tokens import Claims, Tokens
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Group, GroupMember, LoginSession, Membership, User, now

PASSWORD = "correct horse battery"


class Told:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.all: list[Actor | Fault] = []
        self._more = asyncio.Event()

    def standing(self, found: Actor | Fault) -> None:
        self.all.append(found)
        self._more.set()

    async def next(self) -> Actor | Fault:
        async with asyncio.timeout(3):
            while not self.all:
                self._more.clear()
                await self._more.wait()
        return self.all.pop(0)


class Counted(Authority):
    """An authority that notes what is looked up for the watches."""

    def __init__(self, database: Database, backplane: MemoryBackplane) -> None:
        super().__init__(database, backplane)
        self.looked_up: list[Key] = []
        self.fault: Fault | None = None

    async def renewed(self, keys):  # type: ignore[no-untyped-def]
        self.looked_up += keys
        if self.fault is not None:
            raise self.fault
        return await super().renewed(keys)


@pytest.fixture
async def backplane() -> AsyncIterator[MemoryBackplane]:
    backplane = MemoryBackplane()
    await backplane.start()
    yield backplane
    await backplane.close()


@pytest.fixture
async def authority(database: Database, backplane: MemoryBackplane) -> Counted:
    authority = Counted(database, backplane)
    await authority.start()
    return authority


@pytest.fixture
async def watches(authority: Counted) -> AsyncIterator[Watches]:
    watches = Watches(authority)
    yield watches
    await watches.close()


@pytest.fixture
async def people(accounts: Accounts, tokens: Tokens) -> list[Claims]:
    found = []
    for number in range(3):
        email = f"user{number}@hub.example"
        await accounts.register(email, PASSWORD)
        found.append(tokens.read((await accounts.login(email, PASSWORD)).access_token))
    return found


async def change(database: Database, table: type, field: str, value: object, **where: str) -> None:
    async with database.write(EVERY_TENANT) as session:
        [(name, wanted)] = where.items()
        statement = update(table).where(col(getattr(table, name)) == wanted)
        await session.exec(statement.values({field: value}))


async def test_a_change_is_looked_up_for_those_whom_it_touches_alone(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    told = [Told() for _ in people]
    for claims, each in zip(people, told, strict=True):
        watches.add(claims.session_id, each, await authority.actor(claims))
    ada = people[0]
    await change(database, User, "disabled_at", now(), id=ada.user_id)
    await authority.changed("user", ada.user_id)
    found = await told[0].next()
    assert isinstance(found, NoStanding)
    assert found.why == "user_disabled"
    assert authority.looked_up == [ada.session_id]
    await change(database, LoginSession, "revoked_at", now(), id=people[1].session_id)
    await authority.changed("session", people[1].session_id)
    assert isinstance(await told[1].next(), NoStanding)
    assert authority.looked_up == [ada.session_id, people[1].session_id]
    await authority.changed("tenant", people[2].tenant_id)
    await _settled(watches)
    assert authority.looked_up[2:] == [people[2].session_id]
    assert told[2].all == []  # nothing is different for them


async def test_a_role_touches_who_has_it_by_inheritance_too(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    for claims, role in zip(people, ("member", "viewer", "service"), strict=True):
        await change(database, Membership, "role_id", role, user_id=claims.user_id)
        watches.add(claims.session_id, Told(), await authority.actor(claims))
    await authority.changed("role", "viewer")
    await _settled(watches)
    assert set(authority.looked_up) == {claims.session_id for claims in people}
    authority.looked_up.clear()
    await authority.changed("role", "member")
    await _settled(watches)
    assert authority.looked_up == [people[0].session_id]


async def test_whoever_holds_a_revoked_session_learns_no_more_than_that(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    ada, told = people[0], Told()
    watches.add(ada.session_id, told, await authority.actor(ada))
    await change(database, User, "disabled_at", now(), id=ada.user_id)
    await change(database, LoginSession, "revoked_at", now(), id=ada.session_id)
    await authority.changed("user", ada.user_id)
    found = await told.next()
    assert isinstance(found, NoStanding)
    assert found.why == "session_revoked"


async def test_a_member_keeps_their_standing_when_their_login_session_ends(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    ada, told = people[0], Told()
    key = Member(ada.user_id, ada.tenant_id)
    watches.add(key, told)
    actor = await authority.member(*key)
    await change(database, LoginSession, "revoked_at", now(), id=ada.session_id)
    await authority.changed("session", ada.session_id)
    await _settled(watches)
    assert await authority.member(*key) == actor
    await change(database, Membership, "role_id", "viewer", user_id=ada.user_id)
    await authority.changed("user", ada.user_id)
    found = await told.next()
    assert isinstance(found, Actor)
    assert found.roles == ("viewer",)


@pytest.mark.parametrize("heard", [True, False])
async def test_who_comes_into_a_group_or_leaves_one_is_another_to_who_watches(
    authority: Counted, people: list[Claims], database: Database, heard: bool
) -> None:
    ada, told = people[0], Told()
    watches = Watches(authority, sweep_s=1_000.0 if heard else 0.1)
    await watches.start()
    watches.add(ada.session_id, told, await authority.actor(ada))
    group = new_id("g")
    membership = GroupMember(group_id=group, user_id=ada.user_id, tenant_id=ada.tenant_id)
    async with database.write(EVERY_TENANT) as session:
        session.add(Group(id=group, name="team", tenant_id=ada.tenant_id))
        await session.flush()
        session.add(membership)
    if heard:
        await authority.changed("user", ada.user_id)
    found = await told.next()
    assert isinstance(found, Actor)
    assert found.groups == {group}
    async with database.write(EVERY_TENANT) as session:
        await session.exec(delete(Group))
    if heard:
        await authority.changed("group", group)
    found = await told.next()
    assert isinstance(found, Actor)
    assert found.groups == frozenset()
    await watches.close()


async def test_what_changed_between_the_look_and_the_watch_is_told(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    ada, told = people[0], Told()
    actor = await authority.actor(ada)
    await change(database, Membership, "role_id", "viewer", user_id=ada.user_id)
    await authority.changed("user", ada.user_id)
    watches.add(ada.session_id, told, actor)
    found = await told.next()
    assert isinstance(found, Actor)
    assert found.roles == ("viewer",)


async def test_who_comes_to_watch_is_looked_up_unless_somebody_watches_that_already(
    authority: Counted,
    watches: Watches,
    people: list[Claims],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.identity.access.watches.FRESH_S", -1.0)
    actors = [await authority.actor(claims) for claims in people]
    for claims, actor in zip(people, actors, strict=True):
        for _ in range(50):  # the tabs of one browser, that come back at once
            watches.add(claims.session_id, Told(), actor)
            await asyncio.sleep(0)
    async with asyncio.timeout(3):
        while watches._looking is not None:
            await asyncio.wait({watches._looking})
    assert sorted(map(str, authority.looked_up)) == sorted(each.session_id for each in people)


async def test_what_nobody_spoke_of_is_found_by_the_sweep(
    authority: Counted, people: list[Claims], database: Database
) -> None:
    watches = Watches(authority, sweep_s=0.2)
    await watches.start()
    ada, told = people[0], Told()
    watches.add(ada.session_id, told, await authority.actor(ada))
    await change(database, Membership, "role_id", "viewer", user_id=ada.user_id)
    found = await told.next()
    assert isinstance(found, Actor)
    assert found.roles == ("viewer",)
    watches.remove(ada.session_id, told)
    assert len(watches) == 0
    await watches.close()
    assert FRESH_S + SWEEP_S + TICK_S < 5


async def test_a_change_that_cannot_be_looked_up_is_told_as_unknown_and_a_sweep_is_not(
    authority: Counted, watches: Watches, people: list[Claims]
) -> None:
    ada, told = people[0], Told()
    watches.add(ada.session_id, told, await authority.actor(ada))
    authority.fault = Fault("backend_unavailable")
    await authority.changed("user", ada.user_id)
    found = await told.next()
    assert isinstance(found, Fault)
    assert found.reason == "backend_unavailable"
    assert await watches._look([ada.session_id]) is authority.fault
    assert told.all == []


async def test_all_who_watch_one_standing_are_told_and_who_left_is_not(
    authority: Counted, watches: Watches, people: list[Claims], database: Database
) -> None:
    ada, staying, left = people[0], [Told(), Told()], Told()
    for each in (*staying, left):
        watches.add(ada.session_id, each, await authority.actor(ada))
    watches.remove(ada.session_id, left)
    watches.remove(ada.session_id, left)
    await change(database, LoginSession, "expires_at", now(), id=ada.session_id)
    await authority.changed("session", ada.session_id)
    for each in staying:
        found = await each.next()
        assert isinstance(found, NoStanding)
        assert found.why == "session_expired"
    assert left.all == []
    for each in staying:
        watches.remove(ada.session_id, each)
    assert (len(watches), watches._of_user, watches._of_tenant) == (0, {}, {})


async def test_a_change_costs_what_it_touches_and_not_what_is_watched(
    authority: Counted, watches: Watches
) -> None:
    for number in range(10_000):
        actor = Actor(f"u_{number}", f"t_{number}", f"s_{number}", (), frozenset())
        watches.add(f"s_{number}", Told(), actor)
    watches._doubtful.clear()

    def cost(told: Callable[[], None]) -> float:
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            told()
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(lambda: authority.found("user", "u_1")) < 1e-3
    assert cost(lambda: authority.found("tenant", "t_none")) < 1e-4
    assert cost(lambda: authority.found("conversation", "c_1")) < 1e-4


async def _settled(watches: Watches) -> None:
    async with asyncio.timeout(3):
        while watches._looking is not None:
            await asyncio.wait({watches._looking})
