"""Outboxes: one write a turn, a bound, and room for replays."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from hub.events.delivery import Delivery
from hub.events.outbox import REFILL_BYTES, REPLAY_BYTES, FlushScheduler, Outbox
from hub.events.vocabulary import text_content
from hub.protocol.rfc6455 import payloads, text_frame


class Pipe:
    """A ``Writer`` whose transport can be full, or closed under our hands. ``narrow``: it is full
    with the first byte that it is given, as a transport is above its high-water mark.
    """

    def __init__(self, *, narrow: bool = False) -> None:
        self.written: list[bytes] = []
        self.broken = False
        self.narrow = narrow
        self.paused: Callable[[], None] = lambda: None
        self.resumed: Callable[[], None] = lambda: None
        self.finished: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("the handle is closed")
        self.written.append(data)
        if self.narrow:
            self.paused()

    def fill(self) -> None:
        self.paused()

    def drained(self) -> None:
        self.resumed()


class Overflow:
    """An outbox's owner, who counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.turns = 0
        self.failures = 0

    def overflowed(self) -> None:
        self.calls += 1

    def failed(self) -> None:
        self.failures += 1

    def turned(self) -> None:
        self.turns += 1


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


async def turn() -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


def boxed(pipe: Pipe, limit: int = 100) -> tuple[Outbox, Overflow]:
    overflow = Overflow()
    return Outbox(pipe, FlushScheduler(), overflow, limit), overflow


async def test_the_frames_of_one_turn_are_written_with_one_call() -> None:
    pipe = Pipe()
    outbox, _ = boxed(pipe)
    outbox.put(b"a")
    outbox.put(b"b")
    assert pipe.written == []
    await turn()
    outbox.put(b"c")
    await turn()
    assert pipe.written == [b"ab", b"c"]
    assert outbox.size == 0


async def test_all_outboxes_of_a_turn_are_written_at_its_end_by_one_call_and_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = FlushScheduler()
    pipes = [Pipe() for _ in range(50)]
    boxes = [Outbox(pipe, scheduler, Overflow()) for pipe in pipes]
    loop, called = asyncio.get_running_loop(), list[object]()
    call_soon = loop.call_soon

    def noted(callback: Any, *arguments: Any, **named: Any) -> asyncio.Handle:
        called.append(callback)
        return call_soon(callback, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "call_soon", noted)
        for box in boxes:
            box.put(b"x")
            box.put(b"y")
        # A task would be a call of its own.
        assert len(called) == 1
    await turn()
    assert [pipe.written for pipe in pipes] == [[b"xy"]] * 50


async def test_the_way_past_the_outbox_is_open_while_the_transport_takes_what_it_is_given() -> None:
    pipe = Pipe()
    outbox, owner = boxed(pipe)
    write = outbox.write
    assert write is not None
    write(b"a")
    assert (pipe.written, owner.turns) == ([b"a"], 0)
    pipe.fill()
    assert not outbox.write
    assert owner.turns == 1
    outbox.put(b"b")
    pipe.drained()
    assert outbox.write
    assert (pipe.written, owner.turns) == ([b"a", b"b"], 2)
    pipe.finished()
    assert not outbox.write
    assert (owner.turns, outbox.closed) == (3, True)


async def test_a_full_transport_is_waited_for_and_gets_everything_in_order(pipe: Pipe) -> None:
    outbox, overflow = boxed(pipe)
    pipe.fill()
    for at in range(5):
        outbox.put(b"%d" % at)
        await turn()
    assert pipe.written == []
    pipe.drained()
    assert pipe.written == [b"01234"]
    outbox.put(b"5")
    await turn()
    assert pipe.written == [b"01234", b"5"]
    assert overflow.calls == 0


async def test_more_than_the_limit_overflows_once_and_holds_nothing_more(pipe: Pipe) -> None:
    outbox, overflow = boxed(pipe, limit=10)
    pipe.fill()
    outbox.put(b"x" * 10)  # exactly the limit is fine
    assert (overflow.calls, outbox.size) == (0, 10)
    outbox.put(b"y")
    outbox.put(b"z")
    assert (overflow.calls, outbox.size, outbox.closed) == (1, 0, True)
    pipe.drained()
    await turn()
    assert pipe.written == []


async def test_a_replay_waits_for_room_and_is_woken_when_there_is(pipe: Pipe) -> None:
    outbox, _ = boxed(pipe, limit=4 * REPLAY_BYTES)
    pipe.fill()
    outbox.put(b"x" * (REPLAY_BYTES + 1))
    waiting = [asyncio.create_task(outbox.room()) for _ in range(2)]
    for _ in range(3):
        await turn()
    assert not any(task.done() for task in waiting)
    pipe.drained()
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)
        await outbox.room()  # and while there is room, nobody waits


async def test_who_waits_for_room_in_a_closed_outbox_is_cancelled(pipe: Pipe) -> None:
    outbox, _ = boxed(pipe, limit=4 * REPLAY_BYTES)
    pipe.fill()
    outbox.put(b"x" * (REPLAY_BYTES + 1))
    waiting = asyncio.create_task(outbox.room())
    await turn()
    outbox.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await outbox.room()


async def test_a_writer_that_fails_ends_its_connection_and_costs_its_neighbours_nothing() -> None:
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    scheduler = FlushScheduler()
    pipes = [Pipe() for _ in range(3)]
    owners = [Overflow() for _ in pipes]
    boxes = [Outbox(*each) for each in zip(pipes, [scheduler] * 3, owners, strict=True)]
    pipes[0].broken = True
    for word in (b"one", b"two"):
        for box in boxes:
            box.put(word)
        await turn()
        pipes[0].broken = False  # "two" would come without "one"
    assert [pipe.written for pipe in pipes] == [[], [b"one", b"two"], [b"one", b"two"]]
    assert [owner.failures for owner in owners] == [1, 0, 0]
    assert len(reported) == 1


async def lost_at_the_end_of_a_turn(outbox: Outbox, pipe: Pipe) -> None:
    pipe.broken = True
    outbox.put(b"lost")
    await turn()


async def lost_in_the_midst_of_a_turn(outbox: Outbox, pipe: Pipe) -> None:
    pipe.broken = True
    outbox.put(b"l" * 101)


async def lost_when_the_transport_takes_more_again(outbox: Outbox, pipe: Pipe) -> None:
    pipe.fill()
    outbox.put(b"lost")
    pipe.broken = True
    pipe.drained()


@pytest.mark.parametrize(
    "lose",
    [
        lost_at_the_end_of_a_turn,
        lost_in_the_midst_of_a_turn,
        lost_when_the_transport_takes_more_again,
    ],
)
async def test_whenever_something_could_not_be_written_nothing_follows_it(
    pipe: Pipe, lose: Callable[[Outbox, Pipe], Awaitable[None]]
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    outbox, owner = boxed(pipe)
    await lose(outbox, pipe)
    pipe.broken = False
    outbox.put(b"what came after")
    await turn()
    await turn()
    assert (pipe.written, outbox.write, outbox.size) == ([], None, 0)
    assert (owner.failures, len(reported)) == (1, 1)


def deltas(count: int, text: str = "word ", *, channel: str = "conversation:c_1") -> list[Delivery]:
    return [Delivery(channel, "e1", seq, text_content("m_1", text)) for seq in range(1, count + 1)]


def sent(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(payload)["params"] for payload in payloads(data)]


async def test_a_slow_reader_gets_fewer_and_larger_deltas_with_the_same_text(pipe: Pipe) -> None:
    joined: list[int] = []
    outbox = Outbox(pipe, FlushScheduler(joined.append), Overflow())
    pipe.fill()
    for delivery in deltas(500):
        outbox.deliver(delivery)
    assert pipe.written == []
    pipe.drained()
    (event,) = sent(b"".join(pipe.written))
    assert (event["seq"], event["span"]) == (500, 500)
    assert event["event"]["delta"] == "word " * 500
    assert joined == [499]


async def test_a_reader_that_keeps_up_gets_every_event_as_it_was_appended(pipe: Pipe) -> None:
    outbox, overflow = boxed(pipe, limit=100_000)
    for delivery in deltas(20):
        outbox.deliver(delivery)
    await turn()
    events = sent(b"".join(pipe.written))
    assert [(event["seq"], event.get("span")) for event in events] == [
        (seq, None) for seq in range(1, 21)
    ]
    assert overflow.calls == 0


async def test_deltas_are_joined_before_a_reader_is_given_up(pipe: Pipe) -> None:
    outbox, overflow = boxed(pipe, limit=20_000)
    pipe.fill()
    for delivery in deltas(2_000):  # some 300 KB of frames, 10 KB of text
        outbox.deliver(delivery)
        assert outbox.size <= 20_000
    assert overflow.calls == 0
    pipe.drained()
    assert "".join(e["event"]["delta"] for e in sent(b"".join(pipe.written))) == "word " * 2_000


async def test_more_text_than_the_limit_overflows_though_it_is_joined(pipe: Pipe) -> None:
    outbox, overflow = boxed(pipe, limit=20_000)
    pipe.fill()
    for delivery in deltas(30, "x" * 1_000):
        outbox.deliver(delivery)
    assert (overflow.calls, outbox.closed, outbox.size) == (1, True, 0)


async def test_a_transport_that_has_room_again_is_given_a_part_of_what_was_held() -> None:
    """All of it would wait there, where it is not counted, and as much again here."""
    pipe = Pipe(narrow=True)
    outbox, overflow = boxed(pipe, limit=1_000_000)
    pipe.fill()
    frames = [b"%05d" % at * 2_000 for at in range(90)]  # 10 kB each
    for frame in frames:
        outbox.put(frame)
    while outbox.size:
        held, there = outbox.size, len(b"".join(pipe.written))
        pipe.drained()
        given = len(b"".join(pipe.written)) - there
        assert 0 < given <= REFILL_BYTES
        assert outbox.size == held - given
    assert b"".join(pipe.written) == b"".join(frames)
    assert overflow.calls == 0


async def test_a_transport_that_is_full_after_each_write_gets_everything_in_order() -> None:
    pipe = Pipe(narrow=True)
    outbox, overflow = boxed(pipe, limit=100_000)
    seqs: list[int] = []
    for round_ in range(4):
        for delivery in deltas(40)[round_ * 10 : round_ * 10 + 10]:
            outbox.deliver(delivery)
        outbox.put(text_frame(b'{"params":{"seq":0}}'))
        await turn()
        pipe.drained()
    pipe.drained()
    for event in sent(b"".join(pipe.written)):
        seqs += range(event["seq"] - event.get("span", 1) + 1, event["seq"] + 1)
    assert [seq for seq in seqs if seq] == list(range(1, 41))
    assert seqs.count(0) == 4
    assert overflow.calls == 0


async def test_what_is_held_of_a_channel_is_dropped_when_its_subscription_has_ended(
    pipe: Pipe,
) -> None:
    outbox, _ = boxed(pipe, limit=100_000)
    pipe.fill()
    for one, two in zip(deltas(5, channel="one"), deltas(5, channel="two"), strict=True):
        outbox.deliver(one)
        outbox.deliver(two)
    outbox.put(text_frame(b'{"params":{"channel":"notice"}}'))
    outbox.forget("one")
    pipe.drained()
    assert [e["channel"] for e in sent(b"".join(pipe.written))] == ["two", "notice"]
    assert outbox.size == 0


async def test_what_waits_for_the_end_of_a_turn_is_dropped_with_its_subscription_too(
    pipe: Pipe,
) -> None:
    outbox, _ = boxed(pipe, limit=100_000)
    for one, two in zip(deltas(5, channel="one"), deltas(5, channel="two"), strict=True):
        outbox.deliver(one)
        outbox.deliver(two)
    pipe.fill()  # somebody else has written meanwhile
    outbox.forget("one")
    await turn()
    pipe.drained()
    assert {e["channel"] for e in sent(b"".join(pipe.written))} == {"two"}


async def test_more_than_the_limit_in_one_turn_is_written_at_once() -> None:
    pipe = Pipe()
    outbox, overflow = boxed(pipe, limit=1_000)
    for delivery in deltas(50):
        outbox.deliver(delivery)
    assert len(pipe.written) > 1
    await turn()
    assert [e["seq"] for e in sent(b"".join(pipe.written))] == list(range(1, 51))
    assert overflow.calls == 0
