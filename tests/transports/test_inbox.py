"""What a connection waits on: messages for its reader, and a gate for its writers."""

import asyncio

import pytest

from hub.transports.inbox import Gate, Inbox


async def test_messages_are_read_in_the_order_they_came() -> None:
    inbox = Inbox()
    assert inbox.empty()
    inbox.put_nowait("first")
    inbox.put_nowait("second")
    assert not inbox.empty()
    assert [await inbox.get(), await inbox.get()] == ["first", "second"]
    assert inbox.empty()


async def test_a_reader_waits_for_a_message() -> None:
    inbox = Inbox()
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert not reader.done()
    inbox.put_nowait("late")
    inbox.put_nowait("later")
    assert await reader == "late"
    assert await inbox.get() == "later"


async def test_a_reader_that_is_cancelled_takes_no_message_with_it() -> None:
    inbox = Inbox()
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait("kept")
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await inbox.get() == "kept"


async def test_writers_wait_while_the_gate_is_closed() -> None:
    gate = Gate()
    assert gate.is_set()
    await gate.wait()
    gate.clear()
    assert not gate.is_set()
    writers = [asyncio.create_task(gate.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(writer.done() for writer in writers)
    gate.set()
    await asyncio.gather(*writers)


async def test_a_gate_that_closes_again_at_once_lets_nobody_through() -> None:
    gate = Gate()
    gate.clear()
    writer = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    gate.set()
    gate.clear()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not writer.done()
    gate.set()
    await writer
