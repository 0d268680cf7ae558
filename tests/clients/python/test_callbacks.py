"""Callbacks on a real socket: user code that is called with what comes."""

import asyncio

from hub_client import Event, Hub, connect

from tests.clients.python.scripted_hub import Conversations, steps

CHANNEL = Conversations.channel


async def test_a_callback_that_calls_the_sdk_does_not_block_it(
    server: Conversations, client: Hub
) -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()
    conversation = client.conversations.handle("c_1")

    async def ask_again(event: Event) -> None:
        if answers.qsize() < 2:
            answers.put_nowait(str(await conversation.ask("more")))

    client.on("RUN_FINISHED", ask_again)
    await conversation.ask("hi")
    async with asyncio.timeout(5):
        assert [await answers.get() for _ in range(2)] == ["Hello there"] * 2


async def test_callbacks_are_called_in_order_and_survive_their_own_errors(
    server: Conversations, client: Hub
) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def note(event: Event) -> None:
        await asyncio.sleep(0)
        seen.put_nowait(event.seq)
        if event.seq == 2:
            raise ValueError("user code")

    registration = client.on("STEP_STARTED", note)
    async with client.conversations.handle("c_1").subscribe():
        await server.emit(CHANNEL, *steps(*"abcd"))
        async with asyncio.timeout(5):
            assert [await seen.get() for _ in range(4)] == [1, 2, 3, 4]
        registration.remove()
        await server.emit(CHANNEL, *steps("e"))
        await client.ping()
    assert seen.empty()


async def test_a_callback_that_awaits_what_was_cancelled_is_called_again(
    server: Conversations, client: Hub
) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()
    gone = asyncio.create_task(asyncio.Event().wait())
    gone.cancel()

    async def note(event: Event) -> None:
        seen.put_nowait(event.seq)
        await gone

    registration = client.on("STEP_STARTED", note)
    async with client.conversations.handle("c_1").subscribe():
        await server.emit(CHANNEL, *steps(*"ab"))
        async with asyncio.timeout(5):
            assert [await seen.get() for _ in range(2)] == [1, 2]
    await client.close()
    assert registration.task.done()


async def test_a_callback_may_close_the_hub(server: Conversations) -> None:
    client = await connect(server.url, token="t")

    async def leave(_: object) -> None:
        await client.close()

    registration = client.on("session.draining", leave)
    peer = await server.joined.get()
    await peer.notify("session.draining", {"retry_after_ms": 1})
    async with asyncio.timeout(5):
        await client.wait_closed()
        await registration.task
