"""The client and the real hub: what each promises the other."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hub_client import ConnectionClosed, Event, Hub, connect, register
from hub_client.faults import Fault, InvalidParams, NotFound, Unauthenticated
from hub_client.retry import Backoff

from tests.parts.hub import PASSWORD, HubProcess, ServedHub, ServeHub

EMAIL = "reader@example.org"
CLIENT = Path(__file__).parents[3] / "clients" / "python"


async def sign_in(url: str) -> Hub:
    await register(url, email=EMAIL, password=PASSWORD)
    return await connect(url, email=EMAIL, password=PASSWORD, backoff=Backoff(lambda: 0.05))


@pytest.fixture
async def client(served_hub: ServedHub) -> AsyncIterator[Hub]:
    hub = await sign_in(served_hub.url)
    yield hub
    await hub.close()


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(15):
        return [event async for event in events]


async def test_a_message_is_answered(client: Hub) -> None:
    conversation = await client.conversations.create(title="Echo", model="echo")
    events = await collect(conversation.send("Hello hub"))
    assert events[0].type == "RUN_STARTED"
    assert events[-1].outcome == "success"
    text = "".join(event.delta for event in events)
    assert "Hello hub" in text
    messages = [message async for message in conversation.messages()]
    assert [(each.role, each.content) for each in messages] == [
        ("user", "Hello hub"),
        ("assistant", text),
    ]


async def test_ask_answers_with_its_usage(client: Hub) -> None:
    conversation = await client.conversations.create(model="echo")
    answer = await conversation.ask("Hello hub", timeout=15)
    assert "Hello hub" in answer.text
    assert answer.usage[0].model == "echo"
    run = await client.runs.get(answer.run_id)
    assert (run.status, run.usage) == ("succeeded", answer.usage)
    assert [each.id async for each in client.runs.list(conversation.id)] == [run.id]


async def test_a_run_is_cancelled_by_its_conversation(client: Hub) -> None:
    conversation = await client.conversations.create(model="slow")
    seen: list[Event] = []
    async with asyncio.timeout(15):
        async for event in conversation.send("count"):
            seen.append(event)
            if event.delta and len(seen) < 6:
                await conversation.cancel()
    assert seen[-1].outcome == "cancelled"


async def test_a_failing_model_raises_its_fault(client: Hub) -> None:
    conversation = await client.conversations.create(model="error-500")
    with pytest.raises(Fault) as caught:
        await conversation.ask("hi", timeout=15)
    assert caught.value.code >= 5000


async def test_what_is_not_there_is_not_found(client: Hub) -> None:
    with pytest.raises(NotFound):
        await client.conversations.get("c_" + "0" * 26)
    with pytest.raises(InvalidParams):
        await client.call("conversation.get", conversation_id=7)


async def test_conversations_are_listed_changed_and_deleted(client: Hub) -> None:
    for number in range(3):
        await client.conversations.create(title=str(number))
    listed = [each async for each in client.conversations.list()]
    assert sorted(each.title or "" for each in listed) == ["0", "1", "2"]
    await listed[0].update(title="changed")
    assert (await client.conversations.get(listed[0].id)).title == "changed"
    await listed[0].delete()
    with pytest.raises(NotFound):
        await client.conversations.get(listed[0].id)


async def test_the_models_are_listed(client: Hub) -> None:
    models = await client.models()
    assert "echo" in [model.name for model in models]
    assert not any(model.stand_in for model in models)


async def test_history_and_live_events_are_one_stream_for_a_late_subscriber(client: Hub) -> None:
    conversation = await client.conversations.create(model="echo")
    async with conversation.subscribe("start") as early:
        await conversation.ask("One two three", timeout=15)
        first: list[Event] = []
        while not first or not first[-1].terminal:
            first.append(await anext(early))
        async with conversation.subscribe("start") as late:
            second: list[Event] = []
            while not second or not second[-1].terminal:
                second.append(await anext(late))
    assert sum(e.span for e in first) == sum(e.span for e in second) == first[-1].seq
    assert "".join(e.delta for e in first) == "".join(e.delta for e in second)


async def test_a_run_is_followed_from_its_beginning(client: Hub) -> None:
    conversation = await client.conversations.create(model="count")
    stream = await conversation.send("go on")
    assert stream.run_id is not None
    followed = await client.runs.follow(stream.run_id)
    ours, theirs = await asyncio.gather(collect(stream), collect(followed))
    assert "".join(e.delta for e in ours) == "".join(e.delta for e in theirs)
    again = await collect(await client.runs.follow(stream.run_id))
    assert "".join(e.delta for e in again) == "".join(e.delta for e in ours)


async def test_an_access_token_alone_connects_and_logout_ends_it(served_hub: ServedHub) -> None:
    session = await served_hub.sign_up(EMAIL)
    async with connect(served_hub.url, token=session["access_token"]) as client:
        assert client.session["protocol"] == "agenthub.v1"
    with pytest.raises(Unauthenticated):
        await connect(served_hub.url, email=EMAIL, password="another one entirely")
    with pytest.raises(ConnectionClosed) as caught:
        await connect(served_hub.url, token="no.such.token")
    assert caught.value.code == 4500


async def test_a_bot_holds_a_session_by_an_api_key_until_it_is_revoked(
    served_hub: ServedHub,
) -> None:
    async with await sign_in(served_hub.url) as owner:
        key = await owner.call("apikey.create", name="a bot")
        async with connect(served_hub.url, api_key=key["key"], session_key="bot") as bot:
            assert "expires_at" not in bot.session
            conversation = await bot.conversations.create(model="echo")
            assert (await conversation.ask("Hello.", timeout=15)).text == "Hello."
            told: asyncio.Queue[str] = asyncio.Queue()
            bot.on("session.revoked", lambda notice: told.put_nowait(notice.params["reason"]))
            await owner.call("apikey.revoke", api_key_id=key["id"])
            async with asyncio.timeout(5):
                assert await told.get() == "key_revoked"
                await bot.wait_closed()
            with pytest.raises(ConnectionClosed) as caught:
                await bot.ping()
            assert caught.value.code == 4503
    with pytest.raises(ValueError, match="ahk_"):
        connect(served_hub.url, api_key="no key")
    with pytest.raises(ValueError, match="one of"):
        connect(served_hub.url, api_key=key["key"], token="t")


async def test_the_token_is_renewed_on_the_open_socket(served_hub: ServedHub) -> None:
    async with await sign_in(served_hub.url) as client:
        before = client.session["connection_id"]
        token = await client._auth.access(renew=True)
        answer = await client.call("session.refresh", token=token)
        assert answer["expires_at"]
        await client.ping()
        assert client.session["connection_id"] == before


async def test_a_hub_that_was_stopped_or_killed_is_come_back_to_and_kept_its_word(
    hub_process: HubProcess,
) -> None:
    await asyncio.to_thread(hub_process.start)
    async with await sign_in(hub_process.url) as client:
        gone: asyncio.Queue[int] = asyncio.Queue()
        client.on("disconnected", lambda notice: gone.put_nowait(notice.params["code"]))
        conversation = await client.conversations.create(model="slow")
        stream = await conversation.send("count")
        async with asyncio.timeout(15):
            async for event in stream:
                if event.delta:
                    break
        await asyncio.to_thread(hub_process.kill)
        await asyncio.to_thread(hub_process.start)
        async with asyncio.timeout(30):
            assert await gone.get() == 1006
            messages = [message async for message in conversation.messages()]
            assert messages[0].content == "count"
            run = await client.runs.get(stream.run_id or "")
            assert run.message_id == stream.message_id
            await client.runs.cancel(run.id)
            seen = await collect(stream)
            assert seen[-1].terminal

            hub_process.send(signal.SIGTERM)
            assert await gone.get() == 4001
            await asyncio.to_thread(hub_process.stop)
            await asyncio.to_thread(hub_process.start)
            assert (await client.conversations.get(conversation.id)).model == "slow"


async def test_two_conversations_stream_on_one_socket(serve_hub: ServeHub) -> None:
    async with serve_hub() as served, await sign_in(served.url) as client:
        conversations = [await client.conversations.create(model="echo") for _ in range(5)]
        asked = (each.ask(f"word {n}", timeout=15) for n, each in enumerate(conversations))
        answers = await asyncio.gather(*asked)
        for number, answer in enumerate(answers):
            assert f"word {number}" in answer.text


async def test_a_hundred_asks_at_once_on_one_socket_are_all_answered(client: Hub) -> None:
    made = await asyncio.gather(*(client.conversations.create(model="echo") for _ in range(100)))
    asked = (each.ask(f"word {n}.", timeout=60) for n, each in enumerate(made))
    answers = await asyncio.gather(*asked)
    assert [f"word {n}." in answer.text for n, answer in enumerate(answers)] == [True] * 100


async def test_hub_chat_says_what_to_do_about_what_was_given_wrong(served_hub: ServedHub) -> None:
    token = (await served_hub.sign_up(EMAIL))["access_token"]
    status, err = await chat("--url", f"{served_hub.url}/docs", "--token", token, "hi")
    assert (status, "credentials" in err) == (1, False)
    assert f"nothing of a hub is at /docs; try {served_hub.url}" in err
    login = ("--email", EMAIL, "--password-stdin")
    status, err = await chat("--url", f"{served_hub.url}/nowhere", *login, "hi")
    assert (status, f"try {served_hub.url}" in err) == (1, True)
    status, err = await chat("--url", served_hub.url, "--token", "abc", "hi")
    assert (status, "`hub token --email" in err) == (1, True)
    words = ("--url", served_hub.url, "--token", token, "--conversation")
    status, err = await chat(*words, "nope", "hi")
    assert (status, "'nope' is not the id of a conversation" in err) == (2, True)


async def chat(*words: str) -> tuple[int, str]:
    """The exit status of ``hub chat`` and what it says on standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub_client", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
    )
    async with asyncio.timeout(20):
        _, err = await process.communicate(f"{PASSWORD}\n".encode())
    assert process.returncode is not None
    return process.returncode, err.decode()
