"""Everybody × every operation × every transport × whose it is: who may do what, all of it.

What is expected is in ``matrix/table.py``, to be read; what is answered comes from one hub. Nothing
of the hub decides what is expected. Its size is printed. The writes that are to be refused come
first, and leave every row of the database as it was, but for the audit trails.

It is asked of a hub with all embedded, and of one on PostgreSQL and Redis: there of each row, on
each transport, by one of them in turn, or with ``MATRIX=whole`` in the environment by all of them.
"""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from time import process_time
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import sqlalchemy
from sqlmodel import SQLModel, select
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from hub.identity.sessions import throttle
from hub.operations.table import OPERATIONS
from hub.rbac.permissions import declaration
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry
from tests.interaction.drivers import open_socket
from tests.interaction.matrix.asking import EVENTS, Asker, OverHttp, OverWebSocket
from tests.interaction.matrix.table import (
    ANYBODY,
    BESIDE,
    FOREIGN,
    MISSING,
    NEW_PASSWORD,
    PASSWORD_WRONG,
    RELATIONS,
    SAID,
    TABLE,
    WRONG,
    Row,
)
from tests.interaction.matrix.things import House, Things
from tests.interaction.matrix.verdict import EVERYBODY, Who, expected
from tests.parts.hub import PASSWORD, ServedHub, serving
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel

TRANSPORTS: Final = ("websocket", "rest", "events")
HUB, HOME, ABROAD = "default", "acme", "globex"
"""The tenants, in the order in which they are made; the hub begins with the first."""
PATIENCE_S: Final = 30.0
_SHOWN: Final = re.compile(rb'"(?:key|secret|code|token|access_token|refresh_token)":"([^"]{20,})"')
"""What an answer gives away once."""
_TRAILS: Final = ("audit_entries", "audit_heads")
"""What a denial is noted in."""
_PRESENT: Final = ("last_seen_at", "last_used_at")
"""Columns that say when somebody was there last."""


@dataclass(frozen=True)
class Credentials:
    """Of somebody who asks: their user, where they are, and what they show on each transport."""

    user: str
    home: House
    abroad: House
    tokens: dict[str, str]


@dataclass(frozen=True)
class Cell:
    who: Who
    row: Row
    transport: str
    relation: str
    params: dict[str, Any]

    def __str__(self) -> str:
        whose = f" of what is {self.relation} ({self.row.on})" if self.relation else ""
        return f"{self.who.name}, {self.row.operation} over {self.transport}{whose}"


def offered(row: Row, transport: str) -> bool:
    if row.operation == EVENTS or transport == "events":
        return row.operation == EVENTS and transport == "events"
    operation = OPERATIONS[row.operation]
    return operation.socket if transport == "websocket" else operation.http is not None


def test_the_table_knows_every_operation_and_no_other() -> None:
    """An operation that is added has to say here who may do it, to what."""
    assert {row.operation for row in TABLE} == {*OPERATIONS, EVENTS}


def test_a_row_says_what_it_acts_on_for_every_operation_that_takes_an_id() -> None:
    for operation in OPERATIONS.values():
        rows = [row for row in TABLE if row.operation == operation.name]
        if operation.guards is not None and operation.guards[1]:
            assert operation.guards[1] in {row.by for row in rows}, operation.name


def _answers(route: BaseRoute) -> str:
    """The methods and the path that a route of the application answers, as ``BESIDE`` has them."""
    if isinstance(route, Route):
        methods = {"ANY"} if route.methods is None else route.methods - {"HEAD"}
        return f"{' '.join(sorted(methods))} {route.path}"
    if isinstance(route, WebSocketRoute):
        return f"WEBSOCKET {route.path}"
    if isinstance(route, Mount) and isinstance(route.app, StaticFiles):
        return f"FILES {route.path}"
    return repr(route)


async def test_the_application_answers_the_operations_and_what_the_table_names_beside_them(
    served_hub: ServedHub,
) -> None:
    """What is added and is no operation has to say here who may come to it."""
    methods: dict[str, set[str]] = defaultdict(set)
    for operation in OPERATIONS.values():
        if operation.http is not None:
            methods[operation.http.path].add(operation.http.method)
    named = [*BESIDE, *(f"{' '.join(sorted(of))} {path}" for path, of in methods.items())]
    routes = served_hub.hub.application.routes
    assert sorted(_answers(route) for route in routes) == sorted(named)
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        for route, may in BESIDE.items():
            verb, path = route.split()
            if verb == "GET":
                status = (await client.get(re.sub(r"\{\w+\}", "none", path))).status_code
                assert (status == 401) == (may != ANYBODY), f"{route}: {status}"


class Hub:
    """The hub of the matrix, with everybody in it. ``sampled``: one of them asks each row."""

    def __init__(self, served: ServedHub, *, sampled: bool) -> None:
        self.sampled = sampled
        self._served = served
        self._accounts = served.hub.services.accounts
        self.things = Things()

    async def everybody(self) -> dict[str, Credentials]:
        houses = {name: await self._house(name) for name in (HUB, HOME, ABROAD)}
        found: dict[str, Credentials] = {}
        for who in EVERYBODY[1:]:
            if not who.key:
                at, beyond = _places(who)
                email = f"{who.role}@{at}.example"
                user, _ = await self._accounts.create_user(
                    email, PASSWORD, houses[at].tenant_id, who.role
                )
                tokens = {each: await self._login(email) for each in TRANSPORTS}
                found[who.name] = Credentials(user.id, houses[at], houses[beyond], tokens)
        for who in EVERYBODY[1:]:
            if who.key:
                whose = found[who.role]
                owner = found["owner"].tokens["rest"]
                key = await self._key(who, whose.tokens["rest"], owner)
                tokens = dict.fromkeys(TRANSPORTS, str(key["key"]))
                found[who.name] = Credentials(key["user_id"], whose.home, whose.abroad, tokens)
        found["nobody"] = Credentials("", houses[HOME], houses[ABROAD], {})
        for its in found.values():
            await self._in_a_group(its.home.tenant_id, its.user or its.home.colleague)
        return found

    async def _in_a_group(self, tenant_id: str, user: str) -> None:
        if user not in self.things.groups:
            groups = self._served.hub.services.groups
            made = await groups.create(tenant_id, None, f"those with {user}", "")
            await groups.add(tenant_id, None, made.id, user)
            self.things.groups[user] = made.id

    async def _house(self, name: str) -> House:
        ids = []
        for person in ("colleague", "friend"):
            user, tenant = await self._accounts.create_user(
                f"{person}@{name}.example", PASSWORD, name, "member"
            )
            ids.append(user.id)
        self.things.tenants.update(dict.fromkeys([tenant.id, *ids], tenant.id))
        return House(tenant.id, *ids)

    async def _post(self, path: str, body: Any, token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(base_url=self._served.url, trust_env=False) as client:
            answer = await client.post(path, json=body, headers=headers)
        return answer.raise_for_status().json()

    async def _login(self, email: str) -> str:
        answer = await self._post("/v1/auth/login", {"email": email, "password": PASSWORD})
        return str(answer["access_token"])

    async def _key(self, who: Who, token: str, owner: str) -> Any:
        """A key of whose token it is, or of a service account that may do the same."""
        key: dict[str, Any] = {"name": "of the matrix", "scopes": ["conversation:read"]}
        if who.key == "wide":
            async with httpx.AsyncClient(base_url=self._served.url, trust_env=False) as client:
                headers = {"Authorization": f"Bearer {token}"}
                told = (await client.get("/v1/sessions/current", headers=headers)).json()
            key["scopes"] = told["permissions"]
            assert all(declaration(each) for each in key["scopes"])
        if who.program:
            service = await self._post("/v1/services", {"name": "of the matrix"}, owner)
            key["service_id"] = service["id"]
        return await self._post("/v1/apikeys", key, owner if who.program else token)

    async def cells(self, everybody: dict[str, Credentials]) -> list[Cell]:
        """All cells, with what they act on in the database."""
        things = self.things
        cells = []
        turns = count()
        for row in sorted(TABLE, key=lambda row: row.turn):
            for transport in TRANSPORTS:
                if not offered(row, transport):
                    continue
                for who in self._asking(next(turns)):
                    if _is_what_it_shows(who, row):
                        continue
                    its = everybody[who.name]
                    for relation in RELATIONS[row.on]:
                        if relation == "own" and not its.user:
                            continue
                        user, token = its.user or its.home.colleague, its.tokens.get(transport, "")
                        params = {
                            name: things.filled(value, user, its.home, token)
                            for name, value in row.params.items()
                        }
                        if row.by:
                            params[row.by] = things.named(row, relation, user, its.home, its.abroad)
                        cells.append(Cell(who, row, transport, relation, params))
        async with self._served.hub.services.database.write(EVERY_TENANT) as session:
            await things.store(session)
        return cells

    def _asking(self, turn: int) -> Sequence[Who]:
        """Who asks of a row on a transport: all rows and all who ask have their turn."""
        if not self.sampled:
            return EVERYBODY
        return [EVERYBODY[turn % len(EVERYBODY)]]

    async def trail(self) -> str:
        """All entries of the audit trails, as one text."""
        services = self._served.hub.services
        await services.audit.denials.written()
        async with services.database.read(EVERY_TENANT) as session:
            rows = (await session.exec(select(AuditEntry))).all()
        return "\n".join(repr(row.model_dump()) for row in rows)

    async def contents(self) -> dict[str, set[str]]:
        """All rows of each table but the trails', without when somebody was there last."""
        found: dict[str, set[str]] = {}
        async with self._served.hub.services.database.read(EVERY_TENANT) as session:
            connection = await session.connection()
            for table in SQLModel.metadata.sorted_tables:
                if table.name not in _TRAILS:
                    columns = [each for each in table.columns if each.name not in _PRESENT]
                    rows = await connection.execute(sqlalchemy.select(*columns))
                    found[table.name] = {repr(row) for row in rows}
        return found

    async def asker(self, stack: AsyncExitStack, transport: str, token: str | None) -> Asker:
        if transport == "websocket":
            socket = await stack.enter_async_context(open_socket(self._served.ws_url, token))
            return OverWebSocket(socket)
        at = urlsplit(self._served.url)
        return await stack.enter_async_context(OverHttp(str(at.hostname), at.port or 80, token))


def _places(who: Who) -> tuple[str, str]:
    """Where somebody is, and where what is foreign to them is."""
    if who.founder:
        return HUB, HOME
    return (ABROAD, HOME) if who.name.startswith("another") else (HOME, ABROAD)


def _may_name_others(cell: Cell) -> bool:
    """The operator of the hub is told of all tenants; a trail, of what its members have tried."""
    trail = cell.row.on == "the trail's channel" or cell.row.operation.startswith("audit.")
    return cell.who.founder or trail


def _is_to_be_refused(cell: Cell) -> bool:
    """A write that is to change nothing. It comes before those that may change something."""
    row, who = cell.row, cell.who
    writes = row.operation != EVENTS and OPERATIONS[row.operation].kind == "write"
    return writes and expected(who, row, cell.relation, cell.transport) != "done"


def _is_what_it_shows(who: Who, row: Row) -> bool:
    """To show credentials is no operation that one needs credentials for."""
    return row.operation == "session.authenticate" and not who.role


@pytest.fixture(params=["embedded", "servers"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the hub runs on, as settings."""
    if request.param == "embedded":
        return {}
    # All ask at once, in one loop with the hub: on a busy machine that is no failure of Redis.
    monkeypatch.setattr("hub.backplane.standby.ANSWER_S", PATIENCE_S)
    monkeypatch.setattr("hub.backplane.redis_server.ANSWER_S", PATIENCE_S)
    monkeypatch.setattr("hub.backplane.redis_pubsub.SUBSCRIBE_S", PATIENCE_S)
    redis: RedisProcess = request.getfixturevalue("redis_server")
    postgres: str = request.getfixturevalue("postgres_url")
    return {"HUB_DATABASE_URL": postgres, "HUB_REDIS_URL": redis.url}


@pytest.fixture
async def hub(
    tmp_path: Any,
    scripted_model: ScriptedModel,
    parts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Hub]:
    # All of them show tokens that are none, from one address.
    monkeypatch.setattr(throttle, "OF_TOKENS", throttle.OF_TOKENS._replace(burst=1_000))
    unlimited = {
        "HUB_USER_RATE": "0",
        "HUB_TENANT_RATE": "0",
        "HUB_ADDRESS_RATE": "0",
        "HUB_LOG_LEVEL": "error",
    }
    async with serving(
        tmp_path / ".hub", worker=False, OLLAMA_HOST=scripted_model.host, **unlimited, **parts
    ) as served:
        yield Hub(served, sampled=bool(parts) and os.environ.get("MATRIX") != "whole")


async def test_everybody_may_what_the_table_says_and_nothing_else(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    began = process_time()
    everybody = await hub.everybody()
    cells = await hub.cells(everybody)
    wrong: list[str] = []
    strange: list[str] = []
    secrets = {PASSWORD, NEW_PASSWORD, PASSWORD_WRONG, SAID}
    secrets.update(token for its in everybody.values() for token in its.tokens.values())
    alike: dict[tuple[Any, ...], dict[str, bytes]] = defaultdict(dict)

    async def walk(lane: Sequence[Cell], token: str | None) -> None:
        async with AsyncExitStack() as stack:
            asker = await hub.asker(stack, lane[0].transport, token)
            for cell in lane:
                answer = await asker.ask(cell.row.operation, cell.params)
                wanted = expected(cell.who, cell.row, cell.relation, cell.transport)
                if not answer.said.startswith(wanted):
                    wrong.append(f"{cell}: {wanted} expected, and answered: {answer.said}")
                secrets.update(shown.decode() for shown in _SHOWN.findall(answer.seen))
                tenant = everybody[cell.who.name].home.tenant_id
                if not _may_name_others(cell) and (ids := hub.things.strange(answer.seen, tenant)):
                    strange.append(f"{cell}: {ids}")
                if cell.relation in (FOREIGN, MISSING, WRONG) and wanted == "not_found":
                    row = id(cell.row)
                    alike[(cell.who.name, row, cell.transport)][str(cell)] = answer.seen

    async def walk_all(cells: Sequence[Cell]) -> None:
        lanes: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in cells:
            lanes[(cell.who.name, cell.transport)].append(cell)
        # Who shows no credentials is not let stay for long: they ask first, on a socket now and
        # then.
        for (name, _), lane in lanes.items():
            for at in range(0, len(lane) if name == "nobody" else 0, 100):
                await walk(lane[at : at + 100], None)
        await asyncio.gather(
            *(
                walk(lane, everybody[name].tokens[on])
                for (name, on), lane in lanes.items()
                if name != "nobody"
            )
        )

    refused = [cell for cell in cells if _is_to_be_refused(cell)]
    before = await hub.contents()
    await walk_all(refused)
    after = await hub.contents()
    left = {name: sorted(after[name] ^ rows) for name, rows in before.items()}
    await walk_all([cell for cell in cells if not _is_to_be_refused(cell)])
    trail = await hub.trail()
    betrayed = [secret for secret in secrets if secret in trail]
    differing = [pair for pair in alike.values() if len(set(pair.values())) > 1]
    took = process_time() - began
    kind = "matrix (sampled)" if hub.sampled else "matrix"
    with capsys.disabled():
        print(
            f"\n{kind}: {len(cells):,} cells ({len(EVERYBODY)} who ask, {len(TABLE)} rows of "
            f"{len(OPERATIONS)} operations, {len(TRANSPORTS)} transports), {len(wrong)} wrong; "
            f"{len(alike):,} pairs of foreign and missing, {len(differing)} unlike; "
            f"{len(strange)} answers that tell of another tenant; {len(betrayed)} of "
            f"{len(secrets):,} secrets in the audit trail; {len(refused):,} writes refused, "
            f"{sum(map(len, left.values()))} rows changed by them; {took:.1f} s of CPU"
        )
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:200])
    assert not differing, differing[:5]
    assert not strange, "\n".join(strange[:20])
    assert not betrayed, betrayed[:5]
    assert not any(left.values()), {name: rows[:6] for name, rows in left.items() if rows}
    assert len(alike) > (40 if hub.sampled else 500)
