"""Who one is for the hub, through every transport; ``test_matrix.py`` says who may ask what."""

from typing import Final

import pytest

from hub.operations.table import OPERATIONS
from tests.interaction.conftest import World
from tests.interaction.drivers import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNGUARDED: Final[dict[str, str]] = {
    "channel.unsubscribe": "ends a subscription of one's own; without one it does nothing",
    "role.assignments": "lists what the tenant has; the ids only choose among that",
    "role.explain": "looks for the user among the tenant's, and is not found otherwise",
    "member.remove": "looks for the member in the tenant's own scope, in the transaction that acts",
    "invitation.revoke": "looks for it in the tenant's own scope, in the transaction that acts",
}
"""Operations that take an id and guard nothing, and why."""


async def test_every_operation_that_takes_an_id_is_guarded_or_says_why_not() -> None:
    for operation in OPERATIONS.values():
        names = set(operation.params.model_fields) - {"client_message_id"}
        takes_id = any(name in ("channel", "subject") or name.endswith("_id") for name in names)
        guarded = operation.guards is not None and operation.guards[1] != ""
        assert takes_id == (guarded or operation.name in UNGUARDED), (
            f"{operation.name}: an operation that takes an id needs guards=(kind, parameter)"
        )


async def test_who_you_are_is_told_as_it_is_now(world: World) -> None:
    ada = await world.owner()
    told = await ada.ask("session.info")
    assert told["roles"] == ["owner"]
    assert "conversation:create" in told["permissions"]
    viewer = await world.colleague(ada, "viewer")
    less = await viewer.ask("session.info")
    assert less["tenant_id"] == told["tenant_id"]
    assert set(less["permissions"]) < set(told["permissions"])


async def test_a_session_that_was_ended_is_not_let_through(world: World) -> None:
    ada = await world.owner()
    await world.hub.hub.services.accounts.logout(ada.session["session_id"])
    with pytest.raises((Refused, ConnectionError)) as refusal:
        await ada.ask("conversation.list")
    if isinstance(refusal.value, Refused):
        assert refusal.value.reason == "unauthenticated"
