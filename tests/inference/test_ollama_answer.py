"""The bytes of a streamed answer: whole in any pieces, byte-exact, and never a crash."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.inference import ollama_answer
from hub.inference.interface import ChatDone, ChatPart, ReasoningDelta, TextDelta
from hub.inference.ollama_answer import Answer, NotOllama

# What has broken readers of lines and decoders of pieces: separators that are no line feeds,
# astral and combining characters, joiners, controls that JSON escapes, and the byte order mark.
AWKWARD = 'a\r\u2028\u2029\x85\x0b\x1c\x00\n"\\\u0301\u200d\ufeff\ufffd😀👩🏽‍🚀🇨🇭é日'
TEXT = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(codec="utf-8")))


def line(
    content: str = "", thinking: str = "", *, ascii_only: bool = False, **more: object
) -> bytes:
    message = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    spoken = {"model": "m", "created_at": "now", "message": message, "done": False, **more}
    return json.dumps(spoken, ensure_ascii=ascii_only).encode(errors="surrogatepass") + b"\n"


END = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2)
DONE = ChatDone("stop", 3, 2)


def fed(answer: Answer, *pieces: bytes) -> list[ChatPart]:
    return [part for piece in pieces for part in answer.feed(piece)] + answer.end()


def text(parts: list[ChatPart], kind: type[TextDelta | ReasoningDelta] = TextDelta) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind))


def as_text(said: str) -> str:
    """Without halves of surrogate pairs; two that are a pair are the character that they mean."""
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def test_the_tokens_of_one_read_are_one_delta() -> None:
    answer = Answer()
    assert answer.feed(line("one ") + line("two ") + line() + line("three")) == [
        TextDelta("one two three")
    ]
    assert answer.feed(line("!") + END) == [TextDelta("!"), DONE]
    assert answer.done


def test_joining_keeps_the_order_of_thinking_and_speaking() -> None:
    data = line("", "hm") + line("", ", so") + line("It", " is") + line(" is") + line("", "?") + END
    assert Answer().feed(data) == [
        ReasoningDelta("hm, so is"),
        TextDelta("It is"),
        ReasoningDelta("?"),
        DONE,
    ]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(TEXT, TEXT)), st.booleans(), st.lists(st.integers(min_value=1, max_value=80))
)
def test_text_is_byte_exact_in_whatever_pieces_it_comes(
    said: list[tuple[str, str]], ascii_only: bool, cuts: list[int]
) -> None:
    data = b"".join(line(c, t, ascii_only=ascii_only) for c, t in said) + END
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    answer = Answer()
    parts = fed(answer, *pieces, data)
    assert answer.failure is None
    assert text(parts).encode() == "".join(content for content, _ in said).encode()
    assert text(parts, ReasoningDelta) == "".join(thinking for _, thinking in said)
    assert parts[-1] == DONE
    assert all(part.text for part in parts if not isinstance(part, ChatDone))


@given(st.text(st.one_of(st.sampled_from("\ud83d\ude00"), st.characters())))
def test_half_surrogate_pairs_are_replaced_and_the_rest_is_kept(said: str) -> None:
    answer = Answer()
    got = text(answer.feed(line(said, ascii_only=True)))
    assert answer.failure is None
    got.encode()  # no surrogate is left
    assert got.replace("\ufffd", "") == as_text(said).replace("\ufffd", "")


@pytest.mark.parametrize(
    ("escaped", "said"),
    [
        (rb"\ud83d", "\ufffd"),
        (rb"a\ude00b", "a\ufffdb"),
        (rb"\ud83d\ude00\ud83d", "😀\ufffd"),
        (b"a\xff\xfeb", "a\ufffd\ufffdb"),
        (b"\xf0\x9f\x98", "\ufffd"),
    ],
)
def test_half_a_surrogate_pair_or_a_broken_byte_does_not_end_an_answer(
    escaped: bytes, said: str
) -> None:
    answer = Answer()
    parts = answer.feed(b'{"message":{"content":"%s","thinking":"%s"}}\n' % (escaped, escaped))
    assert (text(parts), text(parts, ReasoningDelta)) == (said, said)
    assert answer.feed(b'{"error":"%s"}\n' % escaped) == []
    assert said in str(answer.failure)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"<html>",
        b"[1]",
        b"null",
        b"{}",
        b'{"message":null}',
        b'{"message":{"content":5}}',
        b'{"message":{"content":"x"},"eval_count":"many"}',
        b'{"message":{"content":"x"}',
        b"9" * 5_000,
        b"[" * 100_000,
        b'{"x":' * 100_000,
    ],
)
def test_nonsense_is_a_failure_after_what_was_said_before_it(nonsense: bytes) -> None:
    answer = Answer()
    assert answer.feed(line("so ") + line("far") + nonsense + b"\n" + line("no more")) == [
        TextDelta("so far")
    ]
    assert isinstance(answer.failure, NotOllama)
    assert answer.feed(line("no more")) == []
    assert not answer.done


@given(st.binary())
def test_no_noise_raises(noise: bytes) -> None:
    fed(Answer(), noise, b"\n")


def test_a_line_without_an_end_is_held_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_answer, "LONGEST_LINE", 1_000)
    answer = Answer()
    for _ in range(10):
        answer.feed(b"x" * 100)
    assert answer.failure is None
    answer.feed(b"x")
    assert isinstance(answer.failure, NotOllama)


def test_a_last_line_needs_no_line_feed_and_empty_lines_mean_nothing() -> None:
    answer = Answer()
    assert answer.feed(b"\n\r\n" + line("a") + b"\n" + END[:-1]) == [TextDelta("a")]
    assert answer.end() == [DONE]


def test_nothing_is_understood_after_the_end() -> None:
    answer = Answer()
    assert answer.feed(END + line("more") + b"nonsense\n") == [DONE]
    assert answer.feed(line("more") + b'{"error":"x"}\n') == []
    assert answer.failure is None
