"""What runs take of quotas: an estimate when they are asked for, what they used when they end."""

from collections.abc import Sequence

from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents import rows
from hub.agents.conversations.context import estimate
from hub.agents.run_state import RunStatus
from hub.faults import Fault
from hub.inference.interface import ChatMessage
from hub.limits.ledger import Line, dump, load, spread, thing_of
from hub.limits.quotas import Allowance, Quotas
from hub.rbac.actor import Actor
from hub.storage.tables import Message, Run, Usage


class Spending:
    """The runs' side of the quotas. Without ``quotas`` nothing is limited, and nothing costs."""

    def __init__(self, quotas: Quotas | None) -> None:
        self._quotas = quotas

    async def allowance(self, actor: Actor) -> Allowance | None:
        """What limits the actor's runs, if anything does. Asked before the transaction."""
        return None if self._quotas is None else await self._quotas.allowance(actor)

    async def reserve(
        self,
        session: AsyncSession,
        allowance: Allowance | None,
        message: Message,
        model: str | None,
        *,
        onto: Run | None = None,
        instead_of: Sequence[Run] = (),
    ) -> str | None:
        """Reserve what a message will take: of a run of its own, or more of the run ``onto`` that
        it steers. What that run has reserved then, for its row.

        ``instead_of``: runs that were cancelled for it, whose place it takes. Raises
        Fault("quota_exceeded").
        """
        before = () if onto is None else load(onto.reservation)
        ended = [(line, 0) for run in instead_of for line in _vacate(run)]
        if self._quotas is None or (allowance is None and not ended):
            return dump(before)
        if allowance is None:
            await self._quotas.post(session, (), ended)
            return dump(before)
        if allowance.in_money and model is None:
            model = await rows.model_of(session, message.conversation_id)
        asked = estimate(ChatMessage("user", message.content))
        demand = self._quotas.terms.estimate(asked, model)
        if onto is not None:
            demand["runs"] = 0
        lines = await self._quotas.post(
            session, allowance.claims(demand), ended, sees_all=allowance.sees_all
        )
        return dump([*before, *lines])

    def refused(self, refusal: BaseException) -> None:
        """Count a message that was refused, if it was for a quota."""
        quotas = self._quotas
        if quotas is not None and isinstance(refusal, Fault) and refusal.reason == "quota_exceeded":
            quotas.refused(refusal)

    def used(self, session: AsyncSession, usage: Usage | None) -> None:
        """Keep what a generation has used, and say what it cost."""
        if usage is None:
            return
        if self._quotas is not None:
            price = self._quotas.terms.prices.of(usage.model)
            usage.cost = price.cost(usage.input_tokens, usage.output_tokens)
        session.add(usage)

    async def settle(self, session: AsyncSession, run_id: str, reservation: str | None) -> None:
        """Put what all generations of a run have used in the place of what it had reserved, in the
        transaction that ends it: that happens to a run once, so this does.
        """
        if self._quotas is None or reservation is None:
            return
        tokens, cost = await rows.used(session, run_id)
        used = {"tokens": tokens, "budget": cost}
        await self._quotas.post(session, (), spread(load(reservation), used))


def _vacate(run: Run) -> list[Line]:
    """Take from a cancelled run what it needs no more, and give it: all of one that had not begun;
    of one that is still to end its place among the runs at once, as the next waits for its end.
    """
    held = load(run.reservation)
    if run.status == RunStatus.CANCELLED:
        return list(held)
    run.reservation = dump([line for line in held if thing_of(line.name) != "runs"])
    return [line for line in held if thing_of(line.name) == "runs"]
