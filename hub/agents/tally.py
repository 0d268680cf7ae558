"""What a run has used, generation by generation.

Each generation has a row of its own, which is written together with what it said: as the server
counted it, or about so much of one that was cut off. That of a worker that was lost is written by
whoever takes the run over, from what its log has of it. The row is named after the generation's
message, so that nothing is counted twice, however often a run is taken over.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from hub.agents.conversations.context import MAX_CONTEXT_TOKENS
from hub.agents.generation import Generation, partial_tokens
from hub.events.fold import REASONING, Progress
from hub.ids import is_id
from hub.inference.interface import ChatMessage, ModelInfo
from hub.limits.quotas import KEY_PREFIX
from hub.storage.tables import Message, Run, Usage

PREFIX: Final = "us"


class Used(NamedTuple):
    """Tokens of one model."""

    provider: str
    model: str
    input_tokens: int
    output_tokens: int


def row_of(run: Run, model: ModelInfo | None, generation: Generation) -> Usage | None:
    """What a generation has used; None if the model was not asked, or had not begun."""
    if model is None or not any(generation.tokens):
        return None
    return _row(run, model, generation.message_id, generation.tokens)


def lost_row(
    run: Run,
    model: ModelInfo,
    prompt: Sequence[ChatMessage],
    progress: Progress,
    kept: Iterable[Message],
) -> Usage | None:
    """About what the generation has used that a lost worker has not kept, of a run whose log says
    ``progress``; None if it is not told of any.
    """
    latest = progress.latest[::-1]
    said = next((message for message in latest if message.role == "assistant"), None)
    if said is not None and said.id in {message.id for message in kept}:
        return None
    thoughts = [message for message in latest if message.role == REASONING]
    # One that has not come to speak has thought at most.
    name = said.id if said else thoughts[0].id if thoughts else None
    thought = sum(len(message.text) for message in thoughts)
    tokens = partial_tokens(prompt, said.text if said else "", thought)
    return _row(run, model, name, tokens) if name is not None and any(tokens) else None


def unknown(name: str | None) -> ModelInfo:
    """A model of which no more is known than how it was asked for, if that."""
    return ModelInfo(name or "unknown", "unknown", MAX_CONTEXT_TOKENS)


def _row(run: Run, model: ModelInfo, message_id: str, tokens: tuple[int, int]) -> Usage:
    by_key = run.session_id is not None and is_id(run.session_id, KEY_PREFIX)
    return Usage(
        id=f"{PREFIX}_{message_id.partition('_')[2]}",
        tenant_id=run.tenant_id,
        run_id=run.id,
        user_id=run.user_id,
        key_id=run.session_id if by_key else None,
        provider=model.provider,
        model=model.name,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )


def summed(rows: Iterable[Usage]) -> list[Used]:
    """What was used of each model, in the order in which they were first used."""
    sums: dict[tuple[str, str], Used] = {}
    for row in rows:
        before = sums.get((row.provider, row.model), Used(row.provider, row.model, 0, 0))
        sums[(row.provider, row.model)] = before._replace(
            input_tokens=before.input_tokens + row.input_tokens,
            output_tokens=before.output_tokens + row.output_tokens,
        )
    return list(sums.values())
