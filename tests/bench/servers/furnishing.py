"""Furnishing: people who may follow somebody else's conversation, and what takes that from them."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from hub.identity.access.assignments import Target
from hub.identity.keys.api_keys import Wanted
from hub.ids import new_id
from hub.operations.call import Services
from hub.storage.tables import Conversation, Grant

PASSWORD: Final = "correct horse battery"
READS: Final = ("channel:subscribe", "channel:subscribe:any", "conversation:read:any")
KINDS: Final = (
    "role removed",
    "login session revoked",
    "user disabled",
    "tenant suspended",
    "conversation unshared",
    "API key revoked",
)


class Furnishing:
    """The command of a child that serves a hub. The hub began with the operator's tenant."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def commands(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """By the names that a child is told."""
        return {"furnish": self.furnish}

    async def furnish(
        self, kinds: list[str], operator: str, model: str | None = None
    ) -> list[dict[str, Any]]:
        """For each of ``KINDS`` a tenant of its own, with a conversation of its owner's that a
        member may follow.

        Of each: ``conversation``, the ``owner``'s token and the member's ``token``, and how it is
        taken away: ``take`` is the method, path, token and body of a request.
        """
        return [await self._furnish(kind, operator, model) for kind in kinds]

    async def _furnish(self, kind: str, operator: str, model: str | None) -> dict[str, Any]:
        services = self._services
        address = f"{new_id('u').lower()}@hub.example"
        owner, tenant = await services.accounts.register(f"ada-{address}", PASSWORD)
        ada = (await services.accounts.login(f"ada-{address}", PASSWORD)).access_token
        email = f"bob-{address}"
        member, _ = await services.accounts.create_user(email, PASSWORD, tenant.id, "member")
        bob, other = [
            (await services.accounts.login(email, PASSWORD)).access_token for _ in range(2)
        ]
        place = Conversation(id=new_id("c"), tenant_id=tenant.id, owner_id=owner.id, model=model)
        found = {"kind": kind, "conversation": place.id, "owner": ada, "token": bob}
        async with services.database.write(tenant.id) as session:
            session.add(place)
            await session.flush()
            if kind != "role removed":
                session.add(
                    Grant(
                        id=new_id("sh"),
                        tenant_id=tenant.id,
                        subject_kind="user",
                        subject_id=member.id,
                        resource_kind="conversation",
                        resource_id=found["conversation"],
                        access="reader",
                        granted_by=owner.id,
                    )
                )
        take: tuple[str, str, str, dict[str, Any]]
        match kind:
            case "role removed":
                role = await services.roles.create(tenant.id, None, "reader", permissions=READS)
                await services.assignments.give(tenant.id, None, role.id, Target(member.id, None))
                take = ("POST", f"/v1/roles/{role.id}/revoke", ada, {"user_id": member.id})
            case "login session revoked":
                session_id = services.tokens.read(bob).session_id
                take = ("POST", f"/v1/sessions/{session_id}/revoke", other, {})
            case "user disabled":
                take = ("POST", f"/v1/users/{member.id}/disable", ada, {})
            case "tenant suspended":
                take = ("POST", f"/v1/tenants/{tenant.id}/suspend", operator, {})
            case "conversation unshared":
                path = f"/v1/conversations/{found['conversation']}/shares?user_id={member.id}"
                take = ("DELETE", path, ada, {})
            case "API key revoked":
                wanted = Wanted("bench", None, None)
                key, text = await services.api_keys.create(None, member.id, tenant.id, wanted)
                found["token"] = text
                take = ("DELETE", f"/v1/apikeys/{key.id}", bob, {})
            case _:
                raise ValueError(kind)
        return {**found, "take": take}
