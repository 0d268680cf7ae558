"""What is another tenant's and what is not there: the same words for the same work, statement by
statement, for whatever takes an id; also where it only chooses, or is looked for.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy import event

from hub.faults import Fault
from hub.ids import new_id
from hub.operations.operation import PUBLIC
from hub.operations.table import OPERATIONS
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from tests.interaction.matrix.table import FOREIGN, MISSING, RELATIONS, TABLE, THE
from tests.interaction.matrix.things import House, Things
from tests.parts.hub import PASSWORD, ServeHub
from tests.tenancy.test_alike import Ask, somebody

_OWN: Final = re.compile(r'"(?:[a-z]{1,2}_[0-9A-HJKMNP-TV-Z]{26}|20\d\d-\d\d-\d\dT[^"]+)"')
"""An id, or an instant, in an answer."""
_SAID: Final[ContextVar[list[str] | None]] = ContextVar("said", default=None)

CHOOSING: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("user.list", "email", {}),
    ("role.assignments", "role_id", {}),
    ("role.assignments", "user_id", {}),
    ("role.assignments", "group_id", {}),
    ("role.explain", "resource", {"user_id": "@user", "permission": "conversation:read"}),
    ("role.create", "inherits", {"name": "heir"}),
    ("role.update", "inherits", {"role_id": "@role"}),
    ("role.delete", "reassign_to", {"role_id": "@role"}),
    ("role.revoke", "user_id", {"role_id": "viewer"}),
    ("role.revoke", "group_id", {"role_id": "viewer"}),
    ("group.remove", "user_id", {"group_id": "@group"}),
    ("conversation.share", "email", {"conversation_id": "@conversation", "access": "reader"}),
    ("conversation.unshare", "user_id", {"conversation_id": "@conversation"}),
    ("conversation.unshare", "group_id", {"conversation_id": "@conversation"}),
    ("service.create", "role", {"name": "a service"}),
    ("user.create", "role", {"email": "guest@hub.example"}),
    ("account.change_email", "email", {"password": PASSWORD}),
    ("invitation.create", "role", {}),
    ("factor.require", "role", {}),
    ("audit.query", "actor", {}),
    ("audit.query", "resource", {}),
)
"""Operations, and their parameters that name something but are not what is acted on."""

NAMES_NOTHING: Final = {
    ("invitation.create", "email"): "a guest, who need not be anybody yet",
    ("user.create", "email"): "as account.register: a conflict only where nothing is verified",
    ("channel.unsubscribe", "channel"): "ends a subscription of this connection, if there is one",
    ("audit.export", "actor"): "as audit.query",
    ("audit.export", "resource"): "as audit.query",
}
WITHOUT_ASKING: Final = (
    "tenant.get", "tenant.update", "tenant.delete", "tenant.suspend", "tenant.resume",
    "tenant.restore", "channel.subscribe", "channel.history", "channel.presence",
)  # fmt: skip
"""Operations on what is known to be one's own, or not, by its name alone."""
_NAMING: Final = {"email", "subject", "channel", "actor", "resource", "role", "inherits", "tenant"}


def test_every_parameter_that_names_something_is_tried() -> None:
    tried = {(method, parameter) for method, parameter, _ in CHOOSING} | set(NAMES_NOTHING)
    tried |= {(row.operation, row.by) for row in TABLE}
    for operation in OPERATIONS.values():
        if operation.permission == PUBLIC:
            continue
        for name in set(operation.params.model_fields) - {"client_message_id"}:
            if name.endswith("_id") or name in _NAMING | {"reassign_to"}:
                assert (operation.name, name) in tried, (operation.name, name)


class Told(NamedTuple):
    """What somebody is answered, and the statements that it took."""

    answer: str
    statements: list[str]


@dataclass
class Two:
    """The owner of one tenant, who asks, and that of another."""

    database: Database
    ask: Ask
    abroad: Ask
    user: str
    home: House
    foreign: House
    things: Things

    async def store(self) -> None:
        """What was made so far is there from now on."""
        async with self.database.write(EVERY_TENANT) as session:
            await self.things.store(session)

    async def told(self, method: str, params: dict[str, Any]) -> Told:
        statements: list[str] = []
        token = _SAID.set(statements)
        try:
            answer = "done: " + (await self.ask(method, **params)).encode().decode()
        except Fault as fault:
            answer = f"{fault.reason}: {fault.message} {fault.details}"
        finally:
            _SAID.reset(token)
        return Told(answer, statements)

    async def told_of(self, method: str, params: dict[str, Any], user: str) -> Told:
        """The same, with nothing in it that is the user's alone, or of this moment."""
        told = await self.told(method, params)
        for own in (user, user.lower()):
            told = told._replace(answer=told.answer.replace(own, "<them>"))
        return told._replace(answer=_OWN.sub('"<its own>"', told.answer))

    async def differing(
        self, method: str, parameter: str, more: dict[str, Any], foreign: str, missing: str
    ) -> str:
        """How the answers for what is foreign and for what is missing differ; "" if they do not."""
        told = []
        for named in (foreign, missing):
            params = {**more, parameter: named}
            await self.told(method, params)  # whatever is looked up for the first time
            found = await self.told(method, params)
            told.append(Told(found.answer.replace(named, "<it>"), found.statements))
        assert told[1].statements or method in WITHOUT_ASKING, f"{method} asks nothing"
        return "" if told[0] == told[1] else f"{method} by {parameter}: {told[0]} and {told[1]}"


@contextmanager
def overheard(database: Database) -> Iterator[None]:
    """The statements of who asks are noted; those of others are not theirs."""

    def note(*given: Any) -> None:
        said = _SAID.get()
        if said is not None:
            said.append(given[2])

    engines = {database._reader.sync_engine, database._writer.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
async def two(serve_hub: ServeHub) -> AsyncIterator[Two]:
    limits = {"HUB_USER_RATE": "0", "HUB_TENANT_RATE": "0", "HUB_ADDRESS_RATE": "0"}
    async with serve_hub(worker=False, **limits) as hub:
        services = hub.hub.services
        services.authority._recheck_s = 3_600.0  # who asks is looked up before, and not again
        await somebody(hub)  # in the tenant that the hub begins with
        here, ask = await somebody(hub)
        there, abroad = await somebody(hub)
        things = Things()
        home, foreign = (
            House(each.tenant_id, things.user(each.tenant_id), things.user(each.tenant_id))
            for each in (here, there)
        )
        with overheard(services.database):
            yield Two(services.database, ask, abroad, here.user_id, home, foreign, things)


async def test_what_is_acted_on_is_looked_for_in_the_same_way_wherever_it_is(two: Two) -> None:
    cases = []
    for row in TABLE:
        if row.operation not in OPERATIONS or not {FOREIGN, MISSING} <= {*RELATIONS[row.on]}:
            continue
        more = {
            key: two.things.filled(value, two.user, two.home, "")
            for key, value in row.params.items()
        }
        foreign, missing = (
            two.things.named(row, relation, two.user, two.home, two.foreign)
            for relation in (FOREIGN, MISSING)
        )
        cases.append((row, more, foreign, missing))
    await two.store()
    differing = []
    for row, more, foreign, missing in cases:
        if row.on in ("conversation", "channel"):
            # In use where it is, and so in every cache of this node that there is.
            await two.abroad(
                "conversation.get", conversation_id=foreign.removeprefix("conversation:")
            )
        elif row.on == "run":
            await two.abroad("run.get", run_id=foreign)
        differing.append(await two.differing(row.operation, row.by, more, foreign, missing))
    assert len(cases) > 60
    assert list(filter(None, differing)) == []


SAYS_MORE: Final = {
    "user.delete": "of who is nowhere else the account goes too, which is more to be done",
}
"""What is done about a member in more statements where they are in no other tenant, and why."""


async def test_a_member_who_is_elsewhere_too_is_answered_in_the_same_way_as_one_who_is_not(
    two: Two,
) -> None:
    """The administrators of a tenant do not learn by it which of the two somebody is."""
    cases = []
    for row in TABLE:
        if THE in RELATIONS[row.on] and row.on in ("user", "colleague"):
            more = {
                key: two.things.filled(value, two.user, two.home, "")
                for key, value in row.params.items()
            }
            # The first is asked about for what is looked up for the first time.
            first, here, both = (two.things.user(two.home.tenant_id) for _ in range(3))
            two.things.join(both, two.foreign.tenant_id)
            cases.append((row.operation, row.by, more, (first, here, both)))
    await two.store()
    differing = []
    for method, parameter, more, whose in cases:
        _, one, other = [
            await two.told_of(method, {**more, parameter: user}, user) for user in whose
        ]
        assert one.answer.startswith("done"), one
        if one.answer != other.answer or (
            method not in SAYS_MORE and one.statements != other.statements
        ):
            differing.append(f"{method} by {parameter}: {one} and {other}")
    assert len(cases) > 12
    assert differing == []


async def test_what_chooses_or_is_looked_for_finds_as_much_abroad_as_nowhere(two: Two) -> None:
    things, there = two.things, two.foreign
    conversation = things.conversation(there, there.colleague)
    role = things._role(there.tenant_id, fresh=True)
    named: dict[str, tuple[str, str]] = {
        "email": (f"{there.colleague.lower()}@hub.example", f"{new_id('u').lower()}@hub.example"),
        "resource": (f"conversation:{conversation}", f"conversation:{new_id('c')}"),
        "group_id": (things.group(there.tenant_id), new_id("g")),
        **dict.fromkeys(("user_id", "actor"), (there.colleague, new_id("u"))),
        **dict.fromkeys(("role_id", "role", "inherits", "reassign_to"), (role, new_id("ro"))),
    }
    made = {
        "@role": things._role(two.home.tenant_id, fresh=True),
        "@group": things.group(two.home.tenant_id),
        "@user": two.home.colleague,
        "@conversation": things.conversation(two.home, two.user),
    }
    await two.store()
    differing = []
    for method, parameter, params in CHOOSING:
        more = {key: made.get(value, value) for key, value in params.items()}
        differing.append(await two.differing(method, parameter, more, *named[parameter]))
    assert list(filter(None, differing)) == []
