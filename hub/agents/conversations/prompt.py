"""What a model is asked: a conversation's instructions and as much of its history as fits."""

from collections.abc import Sequence

from hub.agents.conversations.context import fit, reserve, window
from hub.inference.interface import ChatMessage, ChatRequest, ModelInfo
from hub.storage.tables import Message


def chat_request(
    model: ModelInfo, instructions: str | None, history: Sequence[Message]
) -> ChatRequest:
    """The request for the next answer in a conversation, of which ``history`` is all, in order."""
    tokens = window(model.context_length)
    prompt = fit(instructions, [_as_chat_message(row) for row in history], tokens)
    options = {"num_ctx": tokens, "num_predict": _answer_limit(model, tokens)}
    return ChatRequest(model.name, prompt, options=options)


def _as_chat_message(row: Message) -> ChatMessage:
    return ChatMessage("assistant" if row.role == "assistant" else "user", row.content)


def _answer_limit(model: ModelInfo, tokens: int) -> int:
    # A model so small that it stands in for one tends to go on for ever; let it be brief.
    return min(512, reserve(tokens)) if model.stand_in else -1
