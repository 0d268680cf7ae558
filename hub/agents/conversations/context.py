"""Which part of a conversation goes into the prompt: as much of its end as the model can hold.

Pure. Token counts are estimates, because no tokenizer is at hand for every model: a token is taken
to be three UTF-8 bytes (English runs at about four, so the estimate errs on the safe side; most
other scripts at two to three), and a message to cost four tokens beyond its text (the role and the
separators of the common chat templates).
"""

from collections.abc import Sequence
from typing import Final

from hub.inference.interface import ChatMessage

BYTES_PER_TOKEN: Final = 3
MESSAGE_TOKENS: Final = 4
MAX_CONTEXT_TOKENS: Final = 8_192
"""More context than this is not asked of a server: its memory grows with it."""


def window(context_length: int) -> int:
    """The context, in tokens, that a run asks of a model that could hold ``context_length``."""
    return min(context_length, MAX_CONTEXT_TOKENS)


def reserve(window_tokens: int) -> int:
    """Tokens of the window that are kept free for the answer: a quarter, at most 1,024."""
    return min(window_tokens // 4, 1_024)


def estimate(message: ChatMessage) -> int:
    """About how many tokens a message takes."""
    return MESSAGE_TOKENS + -(-len(message.content.encode()) // BYTES_PER_TOKEN)


def fit(
    instructions: str | None, history: Sequence[ChatMessage], window_tokens: int
) -> tuple[ChatMessage, ...]:
    """The prompt: the instructions, then the longest tail of ``history`` that fits the window.

    The newest message is always in, even if it alone is too long: the model server then says so.
    An answer whose question was cut off is cut off too, so that the tail begins with a question.
    """
    system = (ChatMessage("system", instructions),) if instructions else ()
    budget = window_tokens - reserve(window_tokens) - sum(estimate(message) for message in system)
    first = len(history)
    for index in range(len(history) - 1, -1, -1):
        budget -= estimate(history[index])
        if budget < 0 and index < len(history) - 1:
            break
        first = index
    while first < len(history) - 1 and history[first].role != "user":
        first += 1
    return (*system, *history[first:])
