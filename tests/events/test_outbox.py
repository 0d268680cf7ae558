"""Outboxes: one write a turn, a bound, and room for replays."""

import asyncio
from collections.abc import Callable

import pytest

from hub.events.outbox import REPLAY_BYTES, FlushScheduler, Outbox


class Pipe:
    """A ``Writer`` whose transport can be full, or closed under our hands."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ready = True
        self.broken = False
        self.resumed: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("the handle is closed")
        self.written.append(data)

    def drained(self) -> None:
        self.ready = True
        self.resumed()


class Overflow:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


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


async def test_all_outboxes_of_a_turn_are_written_at_its_end() -> None:
    scheduler = FlushScheduler()
    pipes = [Pipe() for _ in range(50)]
    boxes = [Outbox(pipe, scheduler, Overflow()) for pipe in pipes]
    for box in boxes:
        box.put(b"x")
        box.put(b"y")
    await turn()
    assert [pipe.written for pipe in pipes] == [[b"xy"]] * 50


async def test_a_full_transport_is_waited_for_and_gets_everything_in_order() -> None:
    pipe = Pipe()
    outbox, overflow = boxed(pipe)
    pipe.ready = False
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


async def test_more_than_the_limit_overflows_once_and_holds_nothing_more() -> None:
    pipe = Pipe()
    outbox, overflow = boxed(pipe, limit=10)
    pipe.ready = False
    outbox.put(b"x" * 10)  # exactly the limit is fine
    assert (overflow.calls, outbox.size) == (0, 10)
    outbox.put(b"y")
    outbox.put(b"z")
    assert (overflow.calls, outbox.size, outbox.closed) == (1, 0, True)
    pipe.drained()
    await turn()
    assert pipe.written == []


async def test_a_replay_waits_for_room_and_is_woken_when_there_is() -> None:
    pipe = Pipe()
    outbox, _ = boxed(pipe, limit=4 * REPLAY_BYTES)
    pipe.ready = False
    outbox.put(b"x" * (REPLAY_BYTES + 1))
    waiting = [asyncio.create_task(outbox.room()) for _ in range(2)]
    for _ in range(3):
        await turn()
    assert not any(task.done() for task in waiting)
    pipe.drained()
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)
        await outbox.room()  # and while there is room, nobody waits


async def test_who_waits_for_room_in_a_closed_outbox_is_cancelled() -> None:
    pipe = Pipe()
    outbox, _ = boxed(pipe, limit=4 * REPLAY_BYTES)
    pipe.ready = False
    outbox.put(b"x" * (REPLAY_BYTES + 1))
    waiting = asyncio.create_task(outbox.room())
    await turn()
    outbox.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await outbox.room()


async def test_a_writer_that_fails_costs_its_neighbours_nothing() -> None:
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    scheduler = FlushScheduler()
    pipes = [Pipe() for _ in range(3)]
    boxes = [Outbox(pipe, scheduler, Overflow()) for pipe in pipes]
    pipes[0].broken = True
    for word in (b"one", b"two"):
        for box in boxes:
            box.put(word)
        await turn()
    assert [pipe.written for pipe in pipes] == [[], [b"one", b"two"], [b"one", b"two"]]
    assert len(reported) == 2
