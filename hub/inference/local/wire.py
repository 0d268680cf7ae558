"""Ollama's requests, as far as they are understood, and how llama.cpp is asked the same.

The protocol: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Options(msgspec.Struct):
    """Sampling options by Ollama's names; the others are ignored, as Ollama ignores them."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: _Count | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: _Seed | None = None
    repeat_penalty: float | None = None
    repeat_last_n: _Count | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: list[str] | str | None = None
    num_predict: _Count | None = None
    num_ctx: _Count | None = None


class Message(msgspec.Struct):
    role: str
    content: str = ""
    thinking: str | None = None
    images: list[Any] | None = None
    tool_name: str | None = None


class Call(msgspec.Struct, kw_only=True):
    """What all requests that generate have."""

    model: str = ""
    stream: bool = True
    format: str | dict[str, Any] | None = None
    options: Options = msgspec.field(default_factory=Options)
    think: bool | str | None = None
    truncate: bool = True


class ChatCall(Call, kw_only=True):
    messages: list[Message] = []
    tools: list[Any] | None = None


class GenerateCall(Call, kw_only=True):
    prompt: str = ""
    system: str = ""
    suffix: str = ""
    raw: bool = False
    images: list[Any] | None = None


class EmbedCall(msgspec.Struct, kw_only=True):
    model: str = ""
    input: str | list[str] = []
    truncate: bool = True
    dimensions: _Count | None = None


class ShowCall(msgspec.Struct, kw_only=True):
    model: str = ""
    name: str = ""


class BadCall(Exception):
    """The request is answered with ``status`` and ``{"error": …}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLong(BadCall):
    """The prompt has ``tokens``, the context ``limit``."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(400, f"the prompt has {tokens} tokens; the context holds {limit}")
        self.tokens = tokens
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model is sampled when the request does not say. ``num_predict``: -1 is no bound.

    ``dry`` is the strength of a penalty on repeated phrases
    (https://github.com/oobabooga/text-generation-webui/pull/5677); 0 is none.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    dry: float
    num_predict: int


STAND_IN_SAMPLING: Final = Sampling(0.2, 0.8, 40, 0.1, 1.0, 0.8, 512)
"""For 135 million parameters: warmer, and it wanders; unpunished, it repeats its phrases; with a
penalty on single tokens it avoids the words of the question, and changes the subject or the
language; unbounded, it does not always find an end."""

USUAL_SAMPLING: Final = Sampling(0.7, 0.9, 40, 0.0, 1.1, 0.0, -1)


def sampling(options: Options, usual: Sampling) -> dict[str, Any]:
    """The options as llama.cpp's request takes them."""
    given = {
        name: value for name, value in msgspec.to_builtins(options).items() if value is not None
    }
    given.pop("num_ctx", None)
    predict = given.pop("num_predict", usual.num_predict)
    asked: dict[str, Any] = {
        "temperature": usual.temperature,
        "top_p": usual.top_p,
        "top_k": usual.top_k,
        "min_p": usual.min_p,
        "repeat_penalty": usual.repeat_penalty,
        "dry_multiplier": usual.dry,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 512,
        **given,
        "max_tokens": predict if predict > 0 else -1,
    }
    if isinstance(asked.get("stop"), str):
        asked["stop"] = [asked["stop"]]
    return asked


def grammar(form: str | dict[str, Any] | None) -> dict[str, Any]:
    """``format`` as llama.cpp's request takes it. Raises BadCall for one that is unknown."""
    match form:
        case None | "":
            return {}
        case "json":
            return {"response_format": {"type": "json_object"}}
        case dict():
            return {"response_format": {"type": "json_schema", "json_schema": {"schema": form}}}
    raise BadCall(400, f'invalid format: {form!r}; expected "json" or a JSON schema')


def shortened(messages: list[Message], error: PromptTooLong) -> list[Message]:
    """Fewer messages, by about as much as is too long: the oldest go first, system messages and
    the last message stay. Raises ``error`` when there is nothing left to drop.
    """
    droppable = [n for n, m in enumerate(messages[:-1]) if m.role != "system"]
    if not droppable:
        raise error
    letters = sum(len(message.content) for message in messages)
    surplus = letters * (1 - error.limit / error.tokens)
    dropped: set[int] = set()
    for number in droppable:
        dropped.add(number)
        surplus -= len(messages[number].content)
        if surplus <= 0:
            break
    return [message for number, message in enumerate(messages) if number not in dropped]
