"""Nodes, as far as they look up who may do what: each with its own memory, all on one Redis."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from sqlalchemy import event

from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.identity.access.authority import Authority
from hub.identity.access.compiled_roles import CompiledRoles
from hub.identity.access.shared_roles import SharedRoles
from hub.identity.tokens.seal import Seal
from hub.ids import new_id
from hub.storage.database import Database
from hub.telemetry.lookups import Lookups

KEY = b"what all nodes of a hub encrypt with"


@dataclass
class Node:
    """``remembered`` and ``found``: what is looked up in its memory, and on the backplane."""

    database: Database
    backplane: Backplane
    shared: SharedRoles
    roles: CompiledRoles
    authority: Authority
    remembered: Lookups
    found: Lookups

    async def permissions(self, user_id: str, tenant_id: str) -> frozenset[str]:
        """What somebody may do, as far as this node knows."""
        return (await self.authority.member(user_id, tenant_id)).permissions

    @contextmanager
    def reads(self) -> Iterator[list[str]]:
        """The statements meanwhile that read what roles may do."""
        asked: list[str] = []
        engine = self.database._reader.sync_engine

        def note(_: object, __: object, statement: str, *___: object) -> None:
            if "role_permissions" in statement:
                asked.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield asked
        finally:
            event.remove(engine, "before_cursor_execute", note)


@asynccontextmanager
async def node(
    database_url: str, redis_url: str, *, key: bytes = KEY, recheck_s: float = 0.05
) -> AsyncIterator[Node]:
    """One that looks again after ``recheck_s``."""
    database, backplane = Database(database_url), open_backplane(redis_url, new_id("n"))
    await database.start()
    await backplane.start()
    remembered, found = Lookups(), Lookups()
    shared = SharedRoles(backplane, Seal(key), found)
    roles = CompiledRoles(database, shared, remembered)
    authority = Authority(database, backplane, recheck_s=recheck_s, roles=roles)
    await authority.start()
    yield Node(database, backplane, shared, roles, authority, remembered, found)
    await shared.close()
    await backplane.close()
    await database.close()
