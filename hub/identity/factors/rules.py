"""What administrators decide of second factors: who must have one."""

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import hand_of
from hub.rbac.actor import Actor
from hub.rbac.inheritance import Definitions, rank_of
from hub.storage.database import Database
from hub.storage.tables import FactorPolicy


class FactorRules:
    """The demands of tenants. ``changed(kind, id)`` is told of each change."""

    def __init__(self, database: Database, *, changed: Changed) -> None:
        self._database = database
        self._changed = changed

    async def demanded(self, tenant_id: str) -> int | None:
        """The rank of role from which the tenant demands a second factor; None: of nobody."""
        async with self._database.read(tenant_id) as session:
            policy = await session.get(FactorPolicy, tenant_id)
        return policy.rank if policy is not None else None

    async def demand(self, tenant_id: str, by: Actor | None, role: str | None) -> int | None:
        """Demand a second factor of whoever has this role or a higher one, from this moment on;
        the rank. ``role`` None: of nobody; ``by`` None: the operator does.

        Raises Fault("not_found") for a role that is not there, "permission_denied".
        """
        async with self._database.write(tenant_id) as session:
            _, definitions = await hand_of(session, tenant_id, by, "factor:require")
            rank = _rank_of_role(role, definitions) if role is not None else None
            policy = await session.get(FactorPolicy, tenant_id, with_for_update=True)
            if rank is None:
                if policy is not None:
                    await session.delete(policy)
            elif policy is None:
                session.add(FactorPolicy(id=tenant_id, tenant_id=tenant_id, rank=rank))
            else:
                policy.rank = rank
            await record(session, tenant_id, "factor.require", details={"role": role, "rank": rank})
        await announce(self._changed, ("tenant", tenant_id))
        return rank


def _rank_of_role(role: str, definitions: Definitions) -> int:
    ranks = [
        rank_of((each.id,), definitions)
        for each in definitions.values()
        if role in (each.id, each.name)
    ]
    if not ranks:
        raise Fault("not_found", "There is no such role here.")
    return min(ranks)
