"""One answer of the model in a run: as it comes, and as it is kept.

A run has one generation, and another for each time that it was steered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hub.agents.conversations.context import BYTES_PER_TOKEN, estimate
from hub.events.fold import OpenMessage
from hub.ids import new_id
from hub.inference.interface import ChatDone, ChatMessage

GENERATION_STEPS: Final = 1_000
"""Steps of a turn: a generation ``g`` is step ``1000 g + 1``; what steers it follows."""


@dataclass(frozen=True)
class Output:
    """What a generation produced, to be kept."""

    message_id: str
    text: str
    complete: bool
    generation: int


@dataclass
class Generation:
    """One answer of the model, as it comes."""

    number: int
    message_id: str = field(default_factory=lambda: new_id("m"))
    parts: list[str] = field(default_factory=list)
    thoughts: list[OpenMessage] = field(default_factory=list)
    started: bool = False
    closed: bool = False
    done: ChatDone | None = None
    prompt: tuple[ChatMessage, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def thinking(self) -> OpenMessage | None:
        """The thought that is not at its end yet."""
        if not self.thoughts or self.thoughts[-1].closed:
            return None
        return self.thoughts[-1]

    @property
    def step(self) -> int:
        return self.number * GENERATION_STEPS + 1

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of prompt and answer: as the server counted them, or about so many of an answer
        that was cut off, which are used as well; none when the model had not begun.
        """
        if self.done is not None:
            return self.done.input_tokens, self.done.output_tokens
        thought = sum(len(thought.text) for thought in self.thoughts)
        return partial_tokens(self.prompt, self.text, thought)

    def output(self, *, complete: bool) -> Output | None:
        if not self.started:
            return None
        return Output(self.message_id, self.text, complete, self.number)


def partial_tokens(prompt: Sequence[ChatMessage], text: str, thought: int) -> tuple[int, int]:
    """About how many tokens of prompt and answer it took to say this, and so many characters of
    thinking; none if nothing was said.
    """
    size = len(text.encode()) + thought
    if not size:
        return 0, 0
    return sum(estimate(message) for message in prompt), -(-size // BYTES_PER_TOKEN)
