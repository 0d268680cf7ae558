"""Every event that a run can say, held against AG-UI's own models."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hub.events import vocabulary as say
from tests.agents.agui import accept

MESSAGES: list[say.Message] = [
    {"id": "m_1", "role": "user", "content": "Why?"},
    {"id": "m_2", "role": "assistant", "content": "Be", "metadata": {"complete": False}},
]
USAGE = [say.usage_of("ollama", "echo", 3, 4)]

EVENTS: dict[str, Callable[[], bytes | tuple[bytes, ...]]] = {
    "RUN_STARTED": lambda: say.run_started("c_1", "r_1", MESSAGES[:1]),
    "RUN_FINISHED success": lambda: say.run_finished("c_1", "r_1", "success", USAGE),
    "RUN_FINISHED cancelled": lambda: say.run_finished("c_1", "r_1", "cancelled", []),
    "RUN_ERROR": lambda: say.run_error("r_1", "timeout", "It took too long.", []),
    "RUN_ERROR with usage": lambda: say.run_error("r_1", "timeout", "It took too long.", USAGE),
    "TEXT_MESSAGE_START": lambda: say.text_start("m_2"),
    "TEXT_MESSAGE_START of a user": lambda: say.text_start("m_1", "user"),
    "TEXT_MESSAGE_CONTENT": lambda: say.text_content("m_2", "Because"),
    "TEXT_MESSAGE_END": lambda: say.text_end("m_2"),
    "REASONING_START": lambda: say.reasoning_start("m_3"),
    "REASONING_MESSAGE_CONTENT": lambda: say.reasoning_content("m_3", "Let me see"),
    "REASONING_END": lambda: say.reasoning_end("m_3"),
    "STEP_STARTED": lambda: say.step_started("think"),
    "STEP_FINISHED": lambda: say.step_finished("think"),
    "CUSTOM joined": lambda: say.presence("joined", "u_1", "Ada", 1_700_000_000_123),
    "CUSTOM joined without a name": lambda: say.presence("joined", "u_1", "", 0),
    "CUSTOM left": lambda: say.presence("left", "u_1", "Ada", 0),
    "CUSTOM typing": lambda: say.presence("typing", "u_1", "Ada", 0, typing=True),
    "CUSTOM silent": lambda: say.presence("typing", "u_1", "", 0, typing=False),
    "MESSAGES_SNAPSHOT": lambda: say.encode(say.messages_snapshot(MESSAGES)),
    "MESSAGES_SNAPSHOT of nothing": lambda: say.encode(say.messages_snapshot([])),
    "MESSAGES_SNAPSHOT with reasoning": lambda: say.encode(
        say.messages_snapshot([{"id": "m_3", "role": "reasoning", "content": "Let me see"}])
    ),
    "MESSAGES_SNAPSHOT in a run": lambda: say.encode(
        {
            **say.messages_snapshot(MESSAGES),
            "metadata": {"runId": "r_1", "said": [], "open": ["m_2"]},
        }
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_one_that_ag_ui_knows(name: str) -> None:
    made = EVENTS[name]()
    events = made if isinstance(made, tuple) else (made,)
    assert name.partition(" ")[0] in [accept(event)["type"] for event in events]


@given(st.text(min_size=1))
def test_text_arrives_as_it_was_said(text: str) -> None:
    assert accept(say.text_content("m_1", text))["delta"] == text
    assert accept(say.reasoning_content("m_1", text))["delta"] == text


def test_the_judge_refuses_what_is_not_ag_ui() -> None:
    finished = accept(say.run_finished("c_1", "r_1", "success", []))
    for wrong in (
        {**finished, "outcome": {"type": "fine"}},
        {**finished, "runId": None},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m_1"},
        {"type": "NOVEL"},
    ):
        with pytest.raises((ValidationError, AssertionError)):
            accept(wrong)
    with pytest.raises(AssertionError):
        accept({**finished, "usage": None})
