"""The connection on a real socket: what a user sees when networks and hubs misbehave."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hub_client import (
    CallTimedOut,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    Event,
    Hub,
    Position,
    SubscriberTooSlow,
    SubscriptionEnded,
    connect,
)
from hub_client.faults import BadFrame, ModelUnavailable, NotFound
from hub_client.requests import MAX_IN_FLIGHT
from hub_client.retry import Backoff

from tests.clients.python.scripted_hub import Conversations, Params, Refusal, steps

CHANNEL = Conversations.channel


def text(events: list[Event]) -> str:
    return "".join(event.delta for event in events)


async def collect(iterator: AsyncIterator[Event], into: list[Event] | None = None) -> list[Event]:
    """All events; those that came before an error are in ``into``."""
    events = [] if into is None else into
    async with asyncio.timeout(10):
        async for event in iterator:
            events.append(event)  # an error must not lose what came before
    return events


# --- runs ---


async def test_send_yields_exactly_the_events_of_its_run(
    server: Conversations, client: Hub
) -> None:
    conversation = client.conversations.handle("c_1")
    await server.emit(CHANNEL, {"type": "RUN_STARTED", "runId": "r_0"})
    events = await collect(conversation.send("hi"))
    assert [event.type for event in events] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        *["TEXT_MESSAGE_CONTENT"] * 3,
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert text(events) == "Hello there"
    await server.until("channel.unsubscribe")


async def test_ask_answers_the_text_and_what_it_took(server: Conversations, client: Hub) -> None:
    answer = await client.conversations.handle("c_1").ask("hi", timeout=5)
    assert (str(answer), answer.outcome) == ("Hello there", "success")
    assert answer.message_id == f"a_{answer.run_id}"
    assert (answer.usage[0].input_tokens, answer.usage[0].output_tokens) == (3, 2)


async def test_more_requests_than_the_hub_takes_at_once_wait_for_replies(
    server: Conversations, client: Hub
) -> None:
    full, go, busy = asyncio.Event(), asyncio.Event(), 0

    async def get(params: Params) -> Params:
        nonlocal busy
        busy += 1
        if busy > 64:
            raise Refusal(4290, "rate_limited")
        if busy == MAX_IN_FLIGHT:
            full.set()
        await go.wait()
        busy -= 1
        return {}

    server.answers["run.get"] = get
    async with asyncio.timeout(10):
        calls = asyncio.gather(*(client.call("run.get", run_id=str(n)) for n in range(200)))
        await full.wait()
        go.set()
        assert await calls == [{}] * 200


async def test_a_failed_run_yields_its_error_and_then_raises_it(
    server: Conversations, client: Hub
) -> None:
    async def fail(run: str) -> None:
        await server.say(await server.begin(run), "Hel")
        error = {"type": "RUN_ERROR", "message": "It is away.", "code": "model_unavailable"}
        await server.emit(CHANNEL, error)

    server.script = fail
    seen: list[Event] = []
    with pytest.raises(ModelUnavailable, match="It is away"):
        await collect(client.conversations.handle("c_1").send("hi"), seen)
    assert (text(seen), seen[-1].type) == ("Hel", "RUN_ERROR")


async def test_a_connection_that_breaks_mid_run_is_not_seen(
    server: Conversations, client: Hub
) -> None:
    async def play(run: str) -> None:
        message = await server.begin(run)
        await server.say(message, "One, ")
        await server.cut()
        await server.say(message, "two, ")
        await server.joined.get()
        await server.say(message, "three.")
        await server.finish(run, message, "One, two, three.")

    server.script = play
    await server.joined.get()
    events = await collect(client.conversations.handle("c_1").send("hi"))
    assert text(events) == "One, two, three."
    assert not any(event.recovered for event in events)
    assert server.count("message.send") >= 1
    assert len(server.runs) == 1


async def test_a_run_that_ended_while_the_log_was_lost_still_ends_with_all_its_text(
    server: Conversations, client: Hub
) -> None:
    shown = asyncio.Event()

    async def play(run: str) -> None:
        message = await server.begin(run)
        await server.say(message, "One, ")
        await shown.wait()
        await server.cut()
        await server.say(message, "two.")
        await server.finish(run, message, "One, two.")
        server.forget(CHANNEL, epoch="e2")

    server.script = play
    client.on("TEXT_MESSAGE_CONTENT", lambda _: shown.set())
    seen = await collect(client.conversations.handle("c_1").send("hi"))
    assert text(seen) == "One, two."
    assert seen[-1].type == "RUN_FINISHED"
    assert seen[-1].recovered


async def test_a_run_that_goes_on_after_the_log_was_lost_is_told_in_full(
    server: Conversations, client: Hub
) -> None:
    shown = asyncio.Event()

    async def play(run: str) -> None:
        message = await server.begin(run)
        await server.say(message, "One, ")
        await shown.wait()
        await server.joined.get()
        await server.cut()
        server.forget(CHANNEL, epoch="e2")
        server.snapshot = [
            {"id": server.runs[run]["message_id"], "role": "user", "content": "hi"},
            {"id": message, "role": "assistant", "content": "One, two, "},
        ]
        await server.joined.get()
        await server.until("run.get")
        await server.say(message, "three.")
        await server.finish(run, message, "One, two, three.")

    server.script = play
    client.on("TEXT_MESSAGE_CONTENT", lambda _: shown.set())
    seen = await collect(client.conversations.handle("c_1").send("hi"))
    assert text(seen) == "One, two, three."
    assert [event.delta for event in seen if event.recovered] == ["two, "]


async def test_the_message_is_sent_again_when_its_answer_was_lost_and_only_one_run_begins(
    server: Conversations, client: Hub
) -> None:
    send, broken = server.answers["message.send"], list[bool]()

    async def lose_the_first_answer(params: Params) -> Any:
        answer = await send(params)
        if not broken:
            broken.append(True)
            await server.cut()
        return answer

    server.answers["message.send"] = lose_the_first_answer
    events = await collect(client.conversations.handle("c_1").send("hi"))
    assert text(events) == "Hello there"
    assert server.count("message.send") == 2
    assert len(server.runs) == 1


async def forever(server: Conversations, run: str) -> None:
    message = await server.begin(run)
    while server.runs[run]["status"] == "running":
        await server.say(message, "la ")
        await asyncio.sleep(0.005)
    end = {"type": "RUN_FINISHED", "runId": run, "outcome": {"type": "cancelled"}}
    await server.emit(CHANNEL, {"type": "TEXT_MESSAGE_END", "messageId": message}, end)


def cancellable(server: Conversations) -> None:
    async def cancel(params: Params) -> Params:
        server.runs[params["run_id"]]["status"] = "cancelled"
        return server.runs[params["run_id"]]

    server.script = lambda run: forever(server, run)
    server.answers["run.cancel"] = cancel


async def test_leaving_the_loop_does_not_cancel_the_run_but_unsubscribes(
    server: Conversations, client: Hub
) -> None:
    cancellable(server)
    async for event in client.conversations.handle("c_1").send("hi"):
        if event.delta:
            break
    await server.until("channel.unsubscribe")
    assert server.count("run.cancel") == 0


async def test_leaving_the_loop_cancels_the_run_when_that_was_asked_for(
    server: Conversations,
) -> None:
    cancellable(server)
    async with connect(server.url, token="t") as client:
        async for event in client.conversations.handle("c_1").send("hi", cancel_on_break=True):
            if event.delta:
                break
    await server.until("run.cancel")


async def test_cancelling_a_conversation_ends_its_stream_as_cancelled(
    server: Conversations, client: Hub
) -> None:
    cancellable(server)
    conversation = client.conversations.handle("c_1")
    seen = []
    async for event in conversation.send("hi"):
        seen.append(event)
        if event.delta and len(seen) < 10:
            await conversation.cancel()
    assert seen[-1].outcome == "cancelled"


async def test_a_run_that_takes_too_long_times_out_and_goes_on(
    server: Conversations, client: Hub
) -> None:
    cancellable(server)
    with pytest.raises(CallTimedOut):
        await client.conversations.handle("c_1").ask("hi", timeout=0.2)
    assert server.count("run.cancel") == 0


async def test_a_repeated_message_of_a_run_that_is_over_gives_its_answer(
    server: Conversations, client: Hub
) -> None:
    conversation = client.conversations.handle("c_1")
    first = await conversation.ask("hi", client_message_id="k-1")
    server.forget(CHANNEL)
    again = await conversation.ask("hi", client_message_id="k-1")
    assert (again.text, again.run_id) == (first.text, first.run_id)


async def test_a_waiting_reader_may_be_cancelled_and_called_again(
    server: Conversations, client: Hub
) -> None:
    go = asyncio.Event()

    async def play(run: str) -> None:
        message = await server.begin(run)
        await server.say(message, "One, ")
        await go.wait()
        await server.say(message, "two.")
        await server.finish(run, message, "One, two.")

    server.script = play
    stream, seen = client.conversations.handle("c_1").send("hi"), []
    while True:
        try:
            async with asyncio.timeout(0.03):
                seen.append(await anext(stream))
        except TimeoutError:
            go.set()
        except StopAsyncIteration:
            break
    assert text(seen) == "One, two."
    assert server.count("message.send") == 1


# --- subscriptions ---


async def test_subscribers_share_one_subscription_and_each_begins_where_it_asked(
    server: Conversations, client: Hub
) -> None:
    await server.emit(CHANNEL, *steps(*"abcde"))
    conversation = client.conversations.handle("c_1")
    first = await conversation.subscribe("start").ready()
    assert "".join([(await anext(first)).data["stepName"] for _ in "abcde"]) == "abcde"
    live = await conversation.subscribe().ready()
    some = await conversation.subscribe(("e1", 2)).ready()
    again = await conversation.subscribe("start").ready()
    await server.emit(CHANNEL, *steps("f", "g"))
    for subscription, names in (first, "fg"), (live, "fg"), (some, "cdefg"), (again, "abcdefg"):
        got = [(await anext(subscription)).data["stepName"] for _ in names]
        assert "".join(got) == names
        assert subscription.position == Position("e1", 7)
        subscription.close()
    await server.until("channel.unsubscribe")
    assert server.count("channel.subscribe") == 1


async def test_a_position_that_the_log_lost_begins_with_a_snapshot(
    server: Conversations, client: Hub
) -> None:
    await server.emit(CHANNEL, *steps(*"abcde"))
    server.forget(CHANNEL)
    server.snapshot = [{"id": "m", "role": "user", "content": "hi"}]
    conversation = client.conversations.handle("c_1")
    async with conversation.subscribe() as live, conversation.subscribe(("e1", 2)) as late:
        async with asyncio.timeout(5):
            assert (await anext(late)).data["messages"] == server.snapshot
            await server.emit(CHANNEL, *steps("f"))
            for subscription in (late, live):
                while (event := await anext(subscription)).recovered:
                    assert subscription is live
                assert event.data["stepName"] == "f"


async def test_a_slow_subscriber_ends_with_an_error_and_its_neighbour_does_not_notice(
    server: Conversations, client: Hub
) -> None:
    conversation = client.conversations.handle("c_1")
    slow, quick = conversation.subscribe(buffer=4), conversation.subscribe()
    await slow.ready()
    await quick.ready()
    names = [str(number) for number in range(40)]
    await server.emit(CHANNEL, *steps(*names))
    assert [(await anext(quick)).data["stepName"] for _ in names] == names
    seen: list[Event] = []
    with pytest.raises(SubscriberTooSlow) as caught:
        await collect(slow, seen)
    assert caught.value.position == seen[-1].position
    async with conversation.subscribe(caught.value.position) as rest:
        got = [(await anext(rest)).data["stepName"] for _ in range(40 - len(seen))]
    assert [event.data["stepName"] for event in seen] + got == names


async def test_a_frame_that_the_hub_lost_is_fetched(server: Conversations, client: Hub) -> None:
    async with client.conversations.handle("c_1").subscribe() as subscription:
        (peer,) = server.peers
        peer.channels.clear()
        await server.emit(CHANNEL, *steps("a"))
        peer.channels.add(CHANNEL)
        await server.emit(CHANNEL, *steps("b"))
        assert [(await anext(subscription)).data["stepName"] for _ in "ab"] == ["a", "b"]


async def test_a_subscription_that_is_refused_raises_the_fault(
    server: Conversations, client: Hub
) -> None:
    async def refuse(params: Params) -> Params:
        raise Refusal(4040, "not_found")

    server.answers["channel.subscribe"] = refuse
    with pytest.raises(NotFound):
        async with client.conversations.handle("c_1").subscribe():
            pass
    with pytest.raises(NotFound):
        await anext(client.conversations.handle("c_1").subscribe())


async def test_a_subscription_that_the_hub_ends_raises_why(
    server: Conversations, client: Hub
) -> None:
    async with client.conversations.handle("c_1").subscribe() as subscription:
        (peer,) = server.peers
        params = {"channel": CHANNEL, "reason": "permission_denied"}
        await peer.notify("subscription.ended", params)
        with pytest.raises(SubscriptionEnded, match="permission_denied"):
            await anext(subscription)


async def test_a_hub_whose_backend_was_away_goes_on_where_it_was(
    server: Conversations, client: Hub
) -> None:
    async with client.conversations.handle("c_1").subscribe() as subscription:
        (peer,) = server.peers
        await server.emit(CHANNEL, *steps("a"))
        assert (await anext(subscription)).data["stepName"] == "a"
        left = 4

        async def recover(params: Params) -> Params:
            nonlocal left
            left -= 1
            if left:
                raise Refusal(5032, "backend_unavailable")
            return await server.subscribe(params)

        server.answers["channel.subscribe"] = recover
        peer.channels.discard(CHANNEL)
        await peer.notify(
            "subscription.ended", {"channel": CHANNEL, "reason": "backend_unavailable"}
        )
        await server.emit(CHANNEL, *steps("b", "c"))
        async with asyncio.timeout(5):
            names = [(await anext(subscription)).data["stepName"] for _ in range(2)]
        assert names == ["b", "c"]
        assert left == 0
        assert server.peers == [peer], "over the same connection"


async def test_a_subscription_that_waits_for_the_hub_ends_with_its_reader(
    server: Conversations,
) -> None:
    async with connect(server.url, token="t", backoff=slow()) as client:
        async with client.conversations.handle("c_1").subscribe():
            (peer,) = server.peers
            ended = {"channel": CHANNEL, "reason": "backend_unavailable"}
            await peer.notify("subscription.ended", ended)
            await client.call("session.ping")  # the notice came before this answer
            waits = client._connection._subscribers._postponed._waits
            timer = waits[CHANNEL].timer
            assert timer is not None
            assert not timer.cancelled()
        assert timer.cancelled()
        assert waits == {}
    assert server.count("channel.subscribe") == 1


async def test_a_subscription_that_nobody_holds_unsubscribes(
    server: Conversations, client: Hub
) -> None:
    await server.emit(CHANNEL, *steps("a"))
    async for _ in client.conversations.handle("c_1").subscribe("start"):
        break
    gc.collect()
    await server.until("channel.unsubscribe")


async def test_a_burst_does_not_overflow_a_reader_that_keeps_up(
    server: Conversations, client: Hub
) -> None:
    names = [str(number) for number in range(1500)]
    async with client.conversations.handle("c_1").subscribe(buffer=100) as subscription:
        seen: list[Event] = []
        reading = asyncio.create_task(collect(subscription, seen))
        await server.emit(CHANNEL, *steps(*names))
        await client.ping()
    await reading
    assert [event.data["stepName"] for event in seen] == names


# --- calls ---


async def test_answers_find_their_callers_whatever_their_order(
    server: Conversations, client: Hub
) -> None:
    second = asyncio.Event()

    async def get(params: Params) -> Params:
        if params["run_id"] == "first":
            await second.wait()
        else:
            second.set()
        return {"id": params["run_id"]}

    server.answers["run.get"] = get
    names = ("first", "second")
    answers = await asyncio.gather(*(client.call("run.get", run_id=name) for name in names))
    assert [answer["id"] for answer in answers] == ["first", "second"]


async def test_a_request_that_is_not_safe_to_repeat_fails_when_its_answer_is_lost(
    server: Conversations, client: Hub
) -> None:
    async def lose(params: Params) -> Params:
        await server.cut()
        return {}

    server.answers["conversation.create"] = lose
    with pytest.raises(ConnectionLost):
        await client.conversations.create(title="x")
    assert server.count("conversation.create") == 1
    await client.ping()


async def test_a_request_times_out(server: Conversations, client: Hub) -> None:
    async def never(params: Params) -> Params:
        await asyncio.Event().wait()
        return {}

    server.answers["run.get"] = never
    with pytest.raises(CallTimedOut, match=r"run\.get was not answered in 0\.05 s"):
        await client.call("run.get", timeout=0.05)


async def test_lists_page_by_themselves(server: Conversations, client: Hub) -> None:
    for number in range(5):
        server.store(f"m_{number}", "r", "user", str(number))
    messages = [m async for m in client.conversations.handle("c_1").messages()]
    assert [message.content for message in messages] == list("01234")
    assert server.count("message.list") == 3


async def test_a_message_that_is_too_large_is_refused_before_it_is_sent(
    server: Conversations, client: Hub
) -> None:
    with pytest.raises(BadFrame):
        await client.conversations.handle("c_1").ask("x" * 70_000)
    await client.ping()
    assert server.count("message.send") == 0


# --- the connection itself ---


@pytest.mark.parametrize("code", [4001, 4005, 4008, 4012, 4029, 1001, 1011, 1012])
async def test_the_client_returns_after_a_close_that_lets_it(
    server: Conversations, code: int
) -> None:
    tokens = iter(range(9))

    async def token() -> str:
        return f"t{next(tokens)}"

    async with connect(server.url, token=token, backoff=quick()) as client:
        await server.joined.get()
        await server.close(code, '{"reason":"told","retry_after_ms":1}')
        async with asyncio.timeout(5):
            await server.joined.get()
        await client.ping()


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4504])
async def test_the_client_stays_away_after_a_close_that_does_not(
    server: Conversations, client: Hub, code: int
) -> None:
    async with client.conversations.handle("c_1").subscribe() as subscription:
        await server.close(code)
        with pytest.raises(ConnectionClosed) as caught:
            await anext(subscription)
        assert caught.value.code == code
        async with asyncio.timeout(5):
            await client.wait_closed()
        with pytest.raises(ConnectionClosed):
            await client.ping()


async def test_a_hub_that_talks_nonsense_is_left_and_tried_again(
    server: Conversations, client: Hub
) -> None:
    peer = await server.joined.get()
    await peer.asgi_send({"type": "websocket.send", "text": "{"})
    async with asyncio.timeout(5):
        await server.joined.get()
    await client.ping()


async def test_a_request_of_the_hub_is_refused_whatever_it_is_called(
    server: Conversations, client: Hub
) -> None:
    peer = await server.joined.get()
    await peer.say({"id": 1, "method": "\ud800", "params": {}})
    await client.ping()
    assert server.refused == ["This client does not offer ?."]


async def test_a_frame_that_cannot_be_written_ends_the_connection_and_says_why(
    server: Conversations, client: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    client._connection._outbox.put(cast(str, 7))
    async with asyncio.timeout(5):
        await client.wait_closed()
    with pytest.raises(ConnectFailed) as caught:
        await client.ping()
    assert isinstance(caught.value.__cause__, TypeError)
    assert "unforeseen" in caplog.text


async def test_connecting_to_nothing_fails_at_once_and_says_where() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:9"):
        async with connect("http://127.0.0.1:9", token="t"):
            pass


async def test_a_token_that_is_not_valid_is_said_to_be_so(server: Conversations) -> None:
    server.tokens = set()
    with pytest.raises(ConnectionClosed) as caught:
        await connect(server.url, token="wrong")
    assert caught.value.code == 4500


async def test_closing_leaves_no_task_and_fails_what_waits(server: Conversations) -> None:
    before = asyncio.all_tasks()
    cancellable(server)
    client = await connect(server.url, token="t")
    client.on("*", lambda _: None)
    conversation = client.conversations.handle("c_1")
    asking = asyncio.create_task(conversation.ask("hi"))
    reading = asyncio.create_task(collect(conversation.subscribe()))
    await server.until("message.send")
    ours = {task for task in asyncio.all_tasks() if task.get_name().startswith("hub-")}
    assert ours
    await client.close()
    with pytest.raises(ConnectionClosed):
        await asking
    await reading  # a subscription that we close ourselves simply ends
    assert not [task for task in ours if not task.done()]
    await client.close()
    server.runs["r_2"]["status"] = "cancelled"
    assert before <= asyncio.all_tasks()


async def test_closing_while_the_hub_is_away_is_quick(server: Conversations) -> None:
    client = await connect(server.url, token="t", backoff=slow())
    await server.joined.get()
    await server.cut()
    call = asyncio.create_task(client.ping())
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await client.close()
    with pytest.raises(ConnectionClosed):
        await call


def quick() -> Backoff:
    return Backoff(lambda: 0.001)


def slow() -> Backoff:
    return Backoff(lambda: 1.0)
