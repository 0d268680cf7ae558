"""Which part of a conversation goes into the prompt."""

from hypothesis import given
from hypothesis import strategies as st

from hub.agents.conversations.context import (
    MAX_CONTEXT_TOKENS,
    estimate,
    fit,
    reserve,
    window,
)
from hub.inference.interface import ChatMessage

CONTENTS = st.one_of(st.text(max_size=60), st.integers(0, 400).map(lambda size: "é" * size))
HISTORY = st.builds(
    lambda earlier, asked: [*earlier, ChatMessage("user", asked)],
    st.lists(st.builds(ChatMessage, st.sampled_from(["user", "assistant"]), CONTENTS), max_size=12),
    CONTENTS,
)
INSTRUCTIONS = st.one_of(st.none(), st.just(""), CONTENTS)
WINDOWS = st.integers(64, 2_000)


@given(INSTRUCTIONS, HISTORY, WINDOWS)
def test_the_prompt_never_exceeds_the_window_unless_what_must_be_in_it_does(
    instructions: str | None, history: list[ChatMessage], tokens: int
) -> None:
    prompt = fit(instructions, history, tokens)
    size = sum(estimate(message) for message in prompt)
    must = [message for message in prompt if message.role == "system"] + [history[-1]]
    room = tokens - reserve(tokens)
    assert size <= max(room, sum(estimate(message) for message in must))


@given(INSTRUCTIONS, HISTORY, WINDOWS)
def test_the_prompt_is_the_instructions_and_an_unbroken_tail(
    instructions: str | None, history: list[ChatMessage], tokens: int
) -> None:
    prompt = list(fit(instructions, history, tokens))
    if instructions:
        assert prompt.pop(0) == ChatMessage("system", instructions)
    assert prompt == history[len(history) - len(prompt) :]
    assert prompt[-1] is history[-1]
    assert prompt[0].role == "user"


@given(INSTRUCTIONS, HISTORY, WINDOWS)
def test_no_earlier_question_would_have_fitted(
    instructions: str | None, history: list[ChatMessage], tokens: int
) -> None:
    prompt = fit(instructions, history, tokens)
    tail = [message for message in prompt if message.role != "system"]
    left = tokens - reserve(tokens) - sum(estimate(message) for message in prompt)
    for message in reversed(history[: len(history) - len(tail)]):
        left -= estimate(message)
        assert message.role != "user" or left < 0


@given(st.integers(1, 200_000))
def test_a_window_is_what_the_model_holds_and_leaves_room_for_an_answer(length: int) -> None:
    assert window(length) == min(length, MAX_CONTEXT_TOKENS)
    assert 0 <= reserve(window(length)) <= min(1_024, window(length))
