"""Whether runs may go on, by the decision that every request is answered by."""

from collections.abc import Callable
from typing import Final

from hub.agents.permission import Asker
from hub.faults import Fault
from hub.identity.access.authority import Authority
from hub.identity.access.standing import Key, Member
from hub.identity.access.watches import Watches
from hub.identity.tokens.api_key_text import KeyUser
from hub.ids import is_id
from hub.operations.resources import Resources
from hub.rbac.actor import Actor
from hub.rbac.decision import decide

PERMISSION: Final = "message:send"
"""What started a run, and what it goes on by."""


class _Doubter:
    """Passes a changed standing on as a doubt."""

    def __init__(self, doubt: Callable[[], None]) -> None:
        self._doubt = doubt

    def standing(self, found: Actor | Fault) -> None:
        self._doubt()


class RunPermits:
    """The permits of ``hub.agents.permission``.

    A run is its user's: the end of the login session that asked for it is no reason to end it. The
    end of an API key is, as is the loss of its scope: whoever had it may do no more by it.
    """

    def __init__(self, authority: Authority, watches: Watches, resources: Resources) -> None:
        self._authority = authority
        self._watches = watches
        self._resources = resources
        self._doubts: dict[str, dict[Callable[[], None], None]] = {}  # by conversation
        authority.on_change(self._changed)
        resources.look_after(lambda: tuple(self._doubts))

    async def may_go_on(self, asker: Asker) -> bool:
        """Whether ``decide`` allows it now. Raises Fault("backend_unavailable")."""
        try:
            actor = (await self._authority.standing(_by_whom(asker))).actor
            place = await self._resources.find("conversation", asker.conversation_id, actor)
        except Fault as fault:
            if fault.reason in ("unauthenticated", "not_found"):
                return False
            raise
        return decide(actor, PERMISSION, place).allowed

    def watch(self, asker: Asker, doubt: Callable[[], None]) -> Callable[[], None]:
        """Call ``doubt()`` at a change of the user, the tenant, a role or the conversation."""
        whom = _by_whom(asker)
        doubter = _Doubter(doubt)
        self._watches.add(whom, doubter)
        doubts = self._doubts.setdefault(asker.conversation_id, {})
        doubts[doubt] = None

        def end() -> None:
            self._watches.remove(whom, doubter)
            doubts.pop(doubt, None)
            if not doubts and self._doubts.get(asker.conversation_id) is doubts:
                del self._doubts[asker.conversation_id]

        return end

    def _changed(self, kind: str, id: str) -> None:
        if kind == "conversation":
            for doubt in tuple(self._doubts.get(id, ())):
                doubt()


def _by_whom(asker: Asker) -> Key:
    by = asker.session_id
    if by is not None and is_id(by, "ak"):
        return KeyUser(asker.user_id, asker.tenant_id, by)
    return Member(asker.user_id, asker.tenant_id)
