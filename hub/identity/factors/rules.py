"""What administrators decide of second factors: who must have one, and who may do without again."""

from collections.abc import Awaitable, Callable

from sqlmodel import select

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.holdings import hand_of, held_by
from hub.identity.factors.second_factors import forget
from hub.rbac.actor import Actor
from hub.rbac.inheritance import Definitions, rank_of
from hub.rbac.ranks import why_not_touch
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import FactorPolicy, Membership, TotpFactor


class FactorRules:
    """The demands of tenants. ``changed(kind, id)`` is told of each change."""

    def __init__(
        self, database: Database, *, changed: Callable[[str, str], Awaitable[None]]
    ) -> None:
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
        await self._announce("tenant", tenant_id)
        return rank

    async def reset(self, actor: Actor, user_id: str) -> None:
        """Take the second factor from a member of the actor's tenant, who then signs in without.

        Raises Fault("not_found") for who is no member; "permission_denied" for who ranks above the
        actor, is the actor, or is a member elsewhere too (the factor guards that as well: the
        operator decides, with ``hub user reset-factor``). Which of these is not told.
        """
        async with self._database.write(EVERY_TENANT) as session:
            hand, definitions = await hand_of(session, actor.tenant_id, actor, "factor:reset")
            theirs = await held_by(session, actor.tenant_id, user_id)
            if not theirs.member:
                raise Fault("not_found")
            elsewhere = select(Membership.id).where(
                Membership.user_id == user_id, Membership.tenant_id != actor.tenant_id
            )
            if (
                user_id == actor.user_id
                or why_not_touch(hand, theirs.role_ids, definitions) is not None
                or (await session.exec(elsewhere.limit(1))).first() is not None
            ):
                raise Fault(
                    "permission_denied",
                    "You may not reset this user's second factor; the hub's operator can.",
                )
            if await session.get(TotpFactor, user_id) is None:
                return
            await forget(session, user_id)
            await record(session, actor.tenant_id, "factor.reset", resource=("user", user_id))
        await self._announce("user", user_id)

    async def reset_as_operator(self, user_id: str) -> bool:
        """Take the second factor from a user of whatever tenants; whether there was one."""
        async with self._database.write(EVERY_TENANT) as session:
            gone = await forget(session, user_id)
            tenants = select(Membership.tenant_id).where(Membership.user_id == user_id).distinct()
            for tenant_id in (await session.exec(tenants)).all() if gone else ():
                await record(session, tenant_id, "factor.reset", resource=("user", user_id))
        if gone:
            await self._announce("user", user_id)
        return gone

    async def _announce(self, kind: str, id: str) -> None:
        try:
            await self._changed(kind, id)
        except Fault:
            # It is in the database, and every node looks there within seconds anyway.
            return


def _rank_of_role(role: str, definitions: Definitions) -> int:
    ranks = [
        rank_of((each.id,), definitions)
        for each in definitions.values()
        if role in (each.id, each.name)
    ]
    if not ranks:
        raise Fault("not_found", "There is no such role here.")
    return min(ranks)
