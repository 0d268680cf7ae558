"""What a lost worker has used, told from the log: never what was kept, and the same each time."""

from collections.abc import Sequence
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from hub.agents.tally import Used, lost_row, summed
from hub.events import vocabulary as say
from hub.events.fold import fold
from hub.ids import new_id
from hub.inference.interface import ChatMessage, ModelInfo
from hub.storage.tables import Message, Run, Usage

MODEL: Final = ModelInfo("echo", "ollama", 8_192)
PROMPT: Final = (ChatMessage("user", "Hello!"),)
TEXTS = st.lists(st.text("ab c", max_size=9), max_size=4)


def run_of(session_id: str | None = None) -> Run:
    return Run(
        id=new_id("r"), tenant_id=new_id("t"), conversation_id=new_id("c"), user_id=new_id("u"),
        session_id=session_id, message_id=new_id("m"), turn=1,
    )  # fmt: skip


def generation(name: str, thoughts: Sequence[str], deltas: Sequence[str]) -> list[bytes]:
    """One that was broken off, as the log has it."""
    events: list[bytes] = []
    if thoughts:
        events += say.reasoning_start(f"m_T{name}")
        events += [say.reasoning_content(f"m_T{name}", text) for text in thoughts]
    if deltas:
        events += [*say.reasoning_end(f"m_T{name}")] if thoughts else []
        events += [say.text_start(f"m_{name}")]
        events += [say.text_content(f"m_{name}", text) for text in deltas]
    return events


def lost(run: Run, events: Sequence[bytes], *kept: str) -> Usage | None:
    known = [
        Message(id=id, tenant_id="t", conversation_id="c", turn=1, step=1, role="assistant",
                content="")
        for id in kept
    ]  # fmt: skip
    started = say.run_started(run.conversation_id, run.id, [])
    return lost_row(run, MODEL, PROMPT, fold([started, *events]), known)


@given(TEXTS, TEXTS)
def test_what_was_said_and_thought_was_used(thoughts: list[str], deltas: list[str]) -> None:
    run = run_of()
    found = lost(run, generation("1", thoughts, deltas))
    size = len("".join([*thoughts, *deltas]))
    if not size:
        assert found is None
        return
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (4 + 2, -(-size // 3))
    assert found.id == ("us_1" if deltas else "us_T1")
    again = lost(run, generation("1", thoughts, deltas))
    assert again is not None
    assert again.id == found.id, "whoever looks next counts it no second time"


@given(TEXTS, TEXTS.filter(any))
def test_what_was_kept_is_not_lost(thoughts: list[str], deltas: list[str]) -> None:
    run = run_of()
    kept = [*generation("1", thoughts, deltas), say.text_end("m_1")]
    assert lost(run, kept, "m_1") is None
    steered = [*kept, say.text_start("m_U", "user"), say.text_content("m_U", "Go on."),
               say.text_end("m_U")]  # fmt: skip
    assert lost(run, steered, "m_1") is None
    after = lost(run, [*steered, *generation("2", [], deltas)], "m_1")
    alone = lost(run, generation("2", [], deltas))
    assert after is not None
    assert alone is not None
    assert (after.id, after.output_tokens) == ("us_2", alone.output_tokens)


def test_it_is_of_the_key_that_asked_if_it_was_one() -> None:
    key, session = new_id("ak"), new_id("s")
    events = generation("1", [], ["a"])
    by_key, by_login = lost(run_of(key), events), lost(run_of(session), events)
    assert by_key is not None
    assert by_login is not None
    assert (by_key.key_id, by_login.key_id) == (key, None)


def test_what_was_used_is_told_by_model() -> None:
    run = run_of()
    rows = [lost(run, generation(name, [], ["abc"])) for name in ("1", "2", "3")]
    found = [row for row in rows if row is not None]
    found[1].model = "other"
    assert summed(found) == [Used("ollama", "echo", 12, 2), Used("ollama", "other", 6, 1)]
