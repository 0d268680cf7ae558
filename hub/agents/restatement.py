"""All that there is in a conversation, said again in a run, so that a reader can begin there."""

from collections.abc import Sequence

from hub.agents.conversations.transcript import as_event_message
from hub.agents.generation import GENERATION_STEPS, Generation
from hub.events import vocabulary as say
from hub.storage.tables import Message, Run


def restatement(run: Run, rows: Sequence[Message], generations: Sequence[Generation]) -> bytes:
    """A ``MESSAGES_SNAPSHOT`` of ``rows``, the durable messages, and of what is of the run's
    ``generations`` alone: its thoughts, and what it has said of the answer under way. Its metadata
    tell which messages the run has said already, and which of these are open (``fold``).
    """
    mine = [row for row in rows if row.run_id == run.id]
    kept = sum(row.role == "assistant" for row in mine)
    said = [row.id for row in mine if 0 < row.step <= kept * GENERATION_STEPS]
    still_open: list[str] = []
    known = {row.id for row in rows}
    told = [((row.turn, row.step, 1), as_event_message(row)) for row in rows]
    for generation in generations:
        for thought in generation.thoughts:
            message: say.Message = {
                "id": thought.id, "role": thought.role, "content": thought.text
            }  # fmt: skip
            told.append(((run.turn, generation.step, 0), message))
            (said if thought.closed else still_open).append(thought.id)
        answer = generation.message_id
        if generation.started and answer not in known:
            message = {"id": answer, "role": "assistant", "content": generation.text}
            told.append(((run.turn, generation.step, 1), message))
            (said if generation.closed else still_open).append(answer)
    event = say.messages_snapshot(
        [message for _, message in sorted(told, key=lambda item: item[0])]
    )
    event["metadata"] = {"runId": run.id, "said": said}
    if still_open:
        event["metadata"]["open"] = still_open
    return say.encode(event)
