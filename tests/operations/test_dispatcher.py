"""The dispatcher: a read that took long is authorised by what is allowed when it is answered."""

from dataclasses import replace
from typing import Any

import pytest

from hub.faults import Fault
from hub.operations import dispatcher
from hub.operations.call import ANONYMOUS, Call
from hub.operations.dispatcher import Dispatcher
from hub.operations.table import OPERATIONS
from tests.parts.hub import ServedHub


async def test_a_long_read_is_not_answered_when_the_permission_went_meanwhile(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = served_hub.hub.services
    session = await served_hub.sign_up("ada@hub.example")
    claims = services.tokens.read(session["access_token"])
    listed = OPERATIONS["conversation.list"]

    async def slow(call: Call, params: Any) -> Any:
        found = await listed.handler(call, params)
        await services.accounts.logout(claims.session_id)
        return found

    operation = replace(listed, handler=slow)
    call = Call(services, ANONYMOUS, claims, None, "rest", "")
    monkeypatch.setattr(dispatcher, "LONG_S", 0.0)
    with pytest.raises(Fault, match="unauthenticated"):
        await Dispatcher({operation.name: operation}).dispatch(operation, {}, call)
