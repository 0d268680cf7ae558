"""PostgreSQL's connections: each transaction says whose rows it may come to, as it begins.

The walls of ``hub.storage.walls`` stand on a setting that lives as long as the transaction. It goes
with the BEGIN, in one message, so that it costs no round trip of its own.
"""

import re
from typing import Any, Final

import asyncpg

SETTING: Final = "hub.tenant"
"""The setting that the walls look at: a tenant's id, or ``EVERYONES``."""
EVERYONES: Final = "*"

_SAFE: Final = re.compile(r"[A-Za-z0-9_]{0,64}|\*")


class Connection(asyncpg.Connection):  # type: ignore[misc]  # it has no types
    """A connection whose next transaction can be told whose it is."""

    __slots__ = ("_next",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._next: str | None = None

    def begin_for(self, tenant: str) -> None:
        """The transaction that begins next is of this tenant (or of ``EVERYONES``).

        Raises ValueError for what is no identifier.
        """
        if not _SAFE.fullmatch(tenant):
            raise ValueError("a tenant's id has letters, digits and underscores")
        self._next = tenant

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        if self._next is not None and query.startswith("BEGIN"):
            tenant, self._next = self._next, None
            query = f"{query} SET LOCAL {SETTING} = '{tenant}';"
        status: str = await super().execute(query, *args, timeout=timeout)
        return status
