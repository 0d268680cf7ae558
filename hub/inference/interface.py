"""What the hub asks of a model server, whichever it is.

All failures are faults: ``model_unavailable`` (no server, no such model, broken off mid-answer)
and ``timeout`` (no first or next token in time). An answer that ends without the server saying
that it is done is a failure, not a short answer.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of the prompt."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to ask. ``options`` are sampling options by Ollama's names; ``format`` is a JSON schema
    that the answer must follow, or None.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    options: dict[str, Any] = field(default_factory=dict)
    format: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's visible thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatDone:
    """The end of a whole answer. Counts are tokens as the server counted them."""

    reason: Literal["stop", "length"]
    input_tokens: int
    output_tokens: int


ChatPart = TextDelta | ReasoningDelta | ChatDone


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in a server's catalogue. ``context_length`` is in tokens. ``stand_in``: the small
    embedded model, whose answers users should not take for those of a real one. ``digest``: of what
    the model is at the moment, if the server says so: another one may come by the same name.
    """

    name: str
    provider: str
    context_length: int
    size_bytes: int | None = None
    stand_in: bool = False
    digest: str = ""


class ModelClient(Protocol):
    """One model server. Cancelling the task that reads ``chat`` stops the generation at once."""

    provider: str

    def chat(self, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        """Stream an answer: any number of deltas, then exactly one ``ChatDone``, then the end.

        Raises Fault("model_unavailable") or Fault("timeout"). Close the iterator (``aclose``) or
        cancel its task to stop the generation.
        """

    async def models(self) -> tuple[ModelInfo, ...]:
        """The catalogue. Raises Fault("model_unavailable") if the server does not answer."""

    async def close(self) -> None:
        """Close connections. Idempotent."""
