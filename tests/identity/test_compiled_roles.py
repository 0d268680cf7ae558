"""Compiled roles are read once for all nodes, and none of another state, or another's, is given."""

import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.access.compiled_roles import CompiledRoles
from hub.identity.access.definitions import States
from hub.identity.access.roles import Roles
from hub.identity.access.shared_roles import WAIT_S
from hub.rbac.roles import BUILT_IN, compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import BUILT_INS, RoleState
from hub.telemetry.lookups import Lookups
from tests.identity.houses import House
from tests.identity.nodes import KEY, Node, node
from tests.interaction.drivers import eventually
from tests.parts.redis import RedisProcess
from tests.parts.standing import tasks

KEPT: Final = "hub:*cache:permissions:*"
WITHIN_S: Final = 1.5
"""Redis by itself would be given up after two seconds at the earliest."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no Redis that hangs."""
    monkeypatch.setattr("hub.identity.access.shared_roles.WAIT_S", 10.0)


class Line(House):
    """A house with roles in a line, ``heir`` of ``reader`` of ``viewer``, and ``instead`` beside.
    Bob is an heir, and Eve a viewer.
    """

    async def build(self) -> "Line":
        await super().build()
        make = self.roles.create
        self.reader = (
            await make(self.tenant_id, None, "reader", inherits="viewer", permissions=["user:read"])
        ).id
        self.heir = (
            await make(
                self.tenant_id, None, "heir", inherits=self.reader, permissions=["role:read"]
            )
        ).id
        self.instead = (await make(self.tenant_id, None, "instead", permissions=["quota:read"])).id
        self.bob = (await self.user(self.heir)).user_id
        self.eve = (await self.user("viewer")).user_id
        return self

    async def may(self, on: Node) -> frozenset[str]:
        """What Bob may do, as a node knows it."""
        return await on.permissions(self.bob, self.tenant_id)

    async def states(self) -> States:
        async with self.database.read(EVERY_TENANT) as session:
            rows = (await session.exec(select(RoleState))).all()
        by_id = {row.id: row.state for row in rows}
        return States(by_id[self.tenant_id], by_id[BUILT_INS])

    async def update(self, role_id: str, **changes: Any) -> None:
        await self.roles.update(self.tenant_id, None, role_id, changes)

    async def sql(self, statement: str) -> None:
        async with self.database.write(EVERY_TENANT) as session:
            await (await session.connection()).exec_driver_sql(statement)


@pytest.fixture
async def line(database: Database) -> Line:
    return await Line(database).build()


Change = Callable[[Line], Awaitable[Any]]
CHANGES: Final[list[Change]] = [
    lambda it: it.update(it.heir, permissions=["role:read", "group:read"]),
    lambda it: it.update(it.heir, permissions=["group:read"]),
    lambda it: it.update(it.heir, inherits="viewer"),
    lambda it: it.update(it.heir, inherits=it.reader),
    lambda it: it.update(it.reader, permissions=[]),
    lambda it: it.roles.delete(it.tenant_id, None, it.reader, it.instead),
    lambda it: it.roles.delete(it.tenant_id, None, it.heir, it.instead),
    lambda it: it.update(it.instead, inherits="viewer"),
    lambda it: it.sql("INSERT INTO role_permissions VALUES ('viewer', 'member:read')"),
    lambda it: it.sql("DELETE FROM role_permissions WHERE role_id = 'viewer'"),
]


async def test_every_change_acts_on_every_node_without_a_word_of_it(
    line: Line, database_url: str, redis_server: RedisProcess
) -> None:
    """The house's own roles tell nobody: a recheck finds out, and finds nothing of before."""

    async def are(on: Node) -> list[frozenset[str]]:
        return [await on.permissions(who, line.tenant_id) for who in (line.bob, line.eve)]

    async def so(on: Node) -> bool:
        return await are(on) == expected

    async with (
        node(database_url, redis_server.url) as one,
        node(database_url, redis_server.url) as two,
    ):
        expected = await are(one)
        await kept(redis_server, 2)
        assert await are(two) == expected
        assert two.found.hits == 2
        for number, change in enumerate(CHANGES):
            before = expected
            await change(line)
            expected = [(await line.now(who)).permissions for who in (line.bob, line.eve)]
            assert expected != before, number
            for each in (one, two):
                await eventually(partial(so, each))


Entries = dict[str, bytes]


async def kept(on: RedisProcess, number: int) -> Entries:
    """What nodes share, by the names that the backplane knows it by, when that are so many."""
    with on.client() as client:

        async def there() -> bool:
            return len(list(client.scan_iter(KEPT))) >= number

        await eventually(there)
        return {
            key.decode().partition(":cache:")[2]: client.get(key) for key in client.scan_iter(KEPT)
        }


async def test_what_one_node_has_read_the_others_and_it_itself_need_not(
    line: Line, database_url: str, redis_server: RedisProcess
) -> None:
    ada = (await line.user("owner")).user_id
    async with (
        node(database_url, redis_server.url) as one,
        node(database_url, redis_server.url, recheck_s=0.0) as two,
    ):
        with one.reads() as asked:
            bobs = await line.may(one)
            adas = await one.permissions(ada, line.tenant_id)
            assert len(asked) == 2
        entries = await kept(redis_server, 2)
        assert not any(b"user:read" in entry for entry in entries.values())
        with two.reads() as asked:
            assert await line.may(two) == bobs
            assert await two.permissions(ada, line.tenant_id) == adas
            assert adas == (await line.now(ada)).permissions
            for _ in range(3):
                assert await line.may(two) == bobs
        assert asked == []
        assert (two.found.hits, two.found.misses) == (2, 0)
        assert two.remembered.misses == 2
        assert two.remembered.hits >= 3


async def test_a_built_in_role_is_read_once_for_all_tenants(
    line: Line, database_url: str, redis_server: RedisProcess
) -> None:
    other = await House(line.database).build()
    async with node(database_url, redis_server.url) as one:
        with one.reads() as asked:
            for house in (line, other):
                viewer = await house.user("viewer")
                assert await one.permissions(viewer.user_id, house.tenant_id) == viewer.permissions
            assert len(asked) == 1


async def _of_a_built_in_role(line: Line, entries: Entries) -> Entries:
    owners = next(entry for name, entry in entries.items() if name.endswith(":owner"))
    return dict.fromkeys(entries, owners)


async def _of_another_role(line: Line, entries: Entries) -> Entries:
    others = next(entry for name, entry in entries.items() if name.endswith(line.instead))
    return dict.fromkeys(entries, others)


async def _of_another_state(line: Line, entries: Entries) -> Entries:
    """What the role gave before, where it will be looked for."""
    before = (await line.states()).own
    await line.update(line.heir, permissions=[])
    after = (await line.states()).own
    assert before
    assert after
    return {name.replace(before, after): entry for name, entry in entries.items()}


async def _of_another_state_of_the_built_in_roles(line: Line, entries: Entries) -> Entries:
    before = (await line.states()).built_in
    await line.sql("DELETE FROM role_permissions WHERE role_id = 'viewer'")
    after = (await line.states()).built_in
    assert before
    assert after
    return {name.replace(before, after): entry for name, entry in entries.items()}


async def _of_another_tenant(line: Line, entries: Entries) -> Entries:
    """Where somebody has the role who is elsewhere."""
    other = await Line(line.database).build()
    here, there = (await line.states()).own, (await other.states()).own
    assert here
    assert there
    name, entry = next(each for each in entries.items() if each[0].endswith(line.heir))
    name = name.replace(line.tenant_id, other.tenant_id).replace(here, there)
    somebody = await other.user(line.heir)
    assert somebody.permissions == frozenset()
    line.tenant_id, line.bob = other.tenant_id, somebody.user_id
    return {name: entry}


async def _made_up(line: Line, entries: Entries) -> Entries:
    return dict.fromkeys(entries, b'["owner",50,["role:write"],["owner"]]')


async def _no_text(line: Line, entries: Entries) -> Entries:
    return dict.fromkeys(entries, b"\xff\x00\xc3\xa9")


async def _as_it_is(line: Line, entries: Entries) -> Entries:
    return entries


FORGED: Final = (
    _of_a_built_in_role,
    _of_another_role,
    _of_another_state,
    _of_another_state_of_the_built_in_roles,
    _of_another_tenant,
    _made_up,
    _no_text,
)


async def looked_up_again(
    database_url: str, redis: RedisProcess, forge: Any, *, key: bytes = KEY
) -> tuple[Node, int]:
    """A node that looks up what another one has, after its entries were made what ``forge`` makes
    of them; how often it read roles for that.
    """
    database = Database(database_url)
    line = await Line(database).build()
    others = await line.user("owner"), await line.user(line.instead)
    async with node(database_url, redis.url) as one, node(database_url, redis.url, key=key) as two:
        for other in others:
            await one.permissions(other.user_id, line.tenant_id)
        await line.may(one)
        for name, entry in (await forge(line, await kept(redis, 3))).items():
            await one.backplane.cache_set(name, entry, 60.0)
        with two.reads() as asked:
            assert await line.may(two) == (await line.now(line.bob)).permissions
    await database.close()
    return two, len(asked)


@pytest.mark.parametrize("forge", FORGED)
async def test_who_can_write_to_redis_gives_nobody_a_permission(
    sqlite_url: str, redis_server: RedisProcess, forge: Any
) -> None:
    two, asked = await looked_up_again(sqlite_url, redis_server, forge)
    assert (two.found.hits, asked) == (0, 1)


async def test_a_node_with_another_encryption_key_reads_for_itself(
    sqlite_url: str, redis_server: RedisProcess
) -> None:
    other = KEY[::-1]
    two, asked = await looked_up_again(sqlite_url, redis_server, _as_it_is, key=other)
    assert (two.found.hits, asked) == (0, 1)
    two, asked = await looked_up_again(sqlite_url, redis_server, _as_it_is)
    assert (two.found.hits, asked) == (1, 0), "with the same key it would not"


async def test_what_is_read_while_roles_change_stands_under_the_name_that_it_had(
    line: Line,
    database_url: str,
    redis_server: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute, asked = AsyncSession.exec, (line.tenant_id, line.heir)
    gave: dict[States, frozenset[str]] = {}

    async def change(permission: str) -> None:
        await line.update(line.heir, permissions=[permission])
        gave[await line.states()] = (await line.now(line.bob)).permissions

    others = iter(sorted(BUILT_IN["admin"].permissions - {"tool:call:*/*"}))
    async with (
        node(database_url, redis_server.url) as one,
        node(database_url, redis_server.url) as two,
    ):

        async def changing(session: AsyncSession, *asked: Any, **more: Any) -> Any:
            """As ``exec``; after each statement of the node the role is another."""
            found = await execute(session, *asked, **more)
            if session.bind is one.database._reader:
                with monkeypatch.context() as patch:
                    patch.setattr(AsyncSession, "exec", execute)
                    await change(next(others))
            return found

        await change(next(others))
        with monkeypatch.context() as patch:
            patch.setattr(AsyncSession, "exec", changing)
            await line.may(one)
        assert len(gave) > 3
        await kept(redis_server, 1)
        for each in (one, two):
            from_there = 0
            for states, permissions in gave.items():
                with each.reads() as read:
                    found = await each.roles.find([asked], {line.tenant_id: states})
                if not read:
                    assert found[asked].permissions == permissions
                    from_there += 1
            assert from_there > 0


async def test_a_database_that_is_as_it_was_before_a_change_gives_what_it_gave(
    sqlite_url: str, redis_server: RedisProcess, tmp_path: Path
) -> None:
    database = Database(sqlite_url)
    line = await Line(database).build()
    restored = f"sqlite+aiosqlite:///{tmp_path / 'restored.db'}"
    assert database.file is not None
    async with node(sqlite_url, redis_server.url, recheck_s=0.0) as one:
        before = await line.may(one)
        with (
            closing(sqlite3.connect(database.file)) as now,
            closing(sqlite3.connect(tmp_path / "restored.db")) as then,
        ):
            now.backup(then)
        await line.update(line.heir, permissions=["group:read"])
        after = await line.may(one)
        assert after != before
    await database.close()
    line.database = Database(restored)
    line.roles = Roles(line.database)
    async with node(restored, redis_server.url) as two:
        assert await line.may(two) == before
        assert two.found.hits == 1
        await line.update(line.heir, permissions=["quota:set"])

        async def changed() -> bool:
            return await line.may(two) == before - {"role:read"} | {"quota:set"}

        await eventually(changed)
    await line.database.close()


async def test_roles_whose_state_has_no_name_are_read_each_time(
    line: Line, database_url: str, redis_server: RedisProcess
) -> None:
    async with node(database_url, redis_server.url, recheck_s=0.0) as one:
        await line.may(one)
        await line.sql("DELETE FROM role_states")
        for _ in range(2):
            with one.reads() as asked:
                assert await line.may(one) == (await line.now(line.bob)).permissions
            assert len(asked) == 1
        await line.update(line.heir, permissions=["group:read"])  # names its own state again
        with one.reads() as asked:
            assert await line.may(one) == (await line.now(line.bob)).permissions
        assert len(asked) == 1


async def test_a_redis_that_hangs_is_waited_for_no_longer_than_for_a_moment(
    sqlite_url: str, own_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.access.shared_roles.WAIT_S", WAIT_S)
    database = Database(sqlite_url)
    line = await Line(database).build()
    others = tasks()
    async with node(sqlite_url, own_redis.url, recheck_s=0.0) as one:
        own_redis.pause()
        try:
            for reads in (1, 0):  # then it is known, and nobody is waited for
                began = time.perf_counter()
                with one.reads() as asked:
                    assert await line.may(one) == (await line.now(line.bob)).permissions
                assert time.perf_counter() - began < WITHIN_S
                assert len(asked) == reads
        finally:
            own_redis.resume()
    assert not tasks() - others
    await database.close()


async def test_no_more_is_remembered_than_there_is_room_for(database: Database) -> None:
    house = await House(database).build()
    wanted = [(house.tenant_id, role_id) for role_id in BUILT_IN]
    async with database.read(EVERY_TENANT) as session:
        rows = await session.exec(select(RoleState.state).where(RoleState.id == BUILT_INS))
        states = {house.tenant_id: States("", rows.one())}
    for most, hits in ((10_000, len(wanted)), (100, 0)):
        lookups = Lookups()
        roles = CompiledRoles(database, None, lookups, most)
        for _ in range(2):
            for each in wanted:
                assert (await roles.find([each], states))[each].permissions == compile_roles(
                    [each[1]]
                )
        assert lookups.hits == hits
        assert lookups.hits + lookups.misses == 2 * len(wanted)
