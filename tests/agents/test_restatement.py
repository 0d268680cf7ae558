"""All said again in the midst of a run: who reads from there knows what the whole log tells."""

from hypothesis import given
from hypothesis import strategies as st

from hub.agents.generation import GENERATION_STEPS, Generation
from hub.agents.restatement import restatement
from hub.events.fold import REASONING, OpenMessage, fold
from hub.storage.tables import Message, Run

RUN = Run(
    id="r_1", tenant_id="t_1", conversation_id="c_1", user_id="u_1", session_id="s_1",
    message_id="m_asked", turn=3,
)  # fmt: skip


def row(id: str, role: str, step: int, content: str, run_id: str | None = "r_1") -> Message:
    return Message(
        id=id, tenant_id="t_1", conversation_id="c_1", turn=3, step=step, role=role,
        content=content, run_id=run_id,
    )  # fmt: skip


@given(st.lists(st.tuples(st.lists(st.text(max_size=5), max_size=3), st.text()), min_size=1),
       st.booleans(), st.booleans())  # fmt: skip
def test_it_tells_what_the_run_has_said_and_thought_and_what_of_it_is_open(
    told: list[tuple[list[str], str]], thinks: bool, speaks: bool
) -> None:
    """Each generation but the last is kept, and was steered to the next one."""
    rows = [row("m_asked", "user", 0, "Why?")]
    generations: list[Generation] = []
    expected: dict[str, tuple[str, str, bool]] = {}
    for number, (thoughts, text) in enumerate(told):
        last = number == len(told) - 1
        generation = Generation(number, f"m_{number}", parts=[text])
        for count, thought in enumerate(thoughts):
            closed = not (last and thinks and count == len(thoughts) - 1)
            name = f"m_{number}_{count}"
            generation.thoughts.append(OpenMessage(name, REASONING, [thought], closed))
            expected[name] = (REASONING, thought, closed)
        generation.started = speaks or not last
        generation.closed = not last
        if generation.started:
            expected[generation.message_id] = ("assistant", text, not last)
        if not last:
            rows.append(row(generation.message_id, "assistant", generation.step, text))
            steer = number * GENERATION_STEPS + 2
            rows.append(row(f"m_steer_{number}", "user", steer, "Rather so."))
            expected[f"m_steer_{number}"] = ("user", "Rather so.", True)
        generations.append(generation)
    progress = fold([restatement(RUN, rows, generations)])
    known = progress.messages
    assert {m.id: (m.role, m.text, m.closed) for m in known.values()} == expected
    assert list(known) == list(expected)
    assert progress.phases == [m.id for m in known.values() if m.role == REASONING and not m.closed]
