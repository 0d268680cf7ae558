"""A channel as server-sent events: resumed by the last id, ended with the permission."""

import asyncio
import itertools
import json
import socket as sockets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.types import Message

from hub.backplane.interface import LogSlice
from hub.events import delivery
from hub.events.fanout import AT_HAND_BYTES, PAGE_BYTES
from hub.faults import Fault
from hub.identity.tokens.keyring import LEEWAY_S
from hub.ids import new_id
from hub.protocol.codec import encode_sent
from hub.settings import read_settings
from hub.transports import sse, stream
from hub.transports.seats import House, Seated
from tests.interaction.drivers import RestCaller, eventually, open_socket, refused
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.transports.tokens import lasting


class Sent(NamedTuple):
    """A server-sent event."""

    name: str
    id: str | None
    data: Any


class Stream:
    """An open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self, within: float = 8.0) -> Sent | None:
        """The next event; None when the hub has ended the stream. Comments are passed over."""
        found: dict[str, str] = {}
        async with asyncio.timeout(within):
            async for line in self._lines:
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    found[name] = value
                elif not line and "data" in found:
                    data = json.loads(found["data"])
                    return Sent(found.get("event", "message"), found.get("id"), data)
        return None

    async def begun(self) -> None:
        """Return when the stream has said that it follows."""
        async with asyncio.timeout(8):
            async for line in self._lines:
                if line.startswith(": following"):
                    return

    async def run(self) -> list[Sent]:
        """The events up to the end of a run."""
        events: list[Sent] = []
        while not events or events[-1].data["type"] != "RUN_FINISHED":
            event = await self.next()
            assert event is not None
            events.append(event)
        return events


class Someone:
    """Somebody with a conversation, over HTTP alone."""

    def __init__(self, hub: ServedHub, client: httpx.AsyncClient, token: str) -> None:
        self.hub = hub
        self.client = client
        self.token = token
        self.ask = RestCaller(client, token).ask
        self.conversation = ""

    async def begin(self) -> "Someone":
        self.conversation = (await self.ask("conversation.create", {"model": "echo"}))["id"]
        return self

    async def send(self, content: str) -> None:
        await self.ask(
            "message.send",
            {
                "conversation_id": self.conversation,
                "client_message_id": content,
                "content": content,
            },
        )

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def path(self, channel: str | None = None) -> str:
        return sse.PATH.format(channel=channel or f"conversation:{self.conversation}")

    @asynccontextmanager
    async def stream(
        self, query: str = "", channel: str | None = None, **headers: str
    ) -> AsyncIterator[Stream]:
        async with self.client.stream(
            "GET", self.path(channel) + query, headers={**self.bearer, **headers}
        ) as response:
            yield Stream(response)


@asynccontextmanager
async def someone_of(hub: ServedHub, name: str) -> AsyncIterator[Someone]:
    """Somebody signed in."""
    session = await hub.sign_up(f"{name}@hub.example")
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        yield await Someone(hub, client, session["access_token"]).begin()


@pytest.fixture
async def ada(served_hub: ServedHub) -> AsyncIterator[Someone]:
    async with someone_of(served_hub, "ada") as ada:
        yield ada


async def let_go(hub: ServedHub, ends: Mapping[str, int], within: float = 8.0) -> None:
    """Return when nothing is left of streams that ended for these reasons."""
    metrics = hub.hub.services.metrics

    async def nothing() -> bool:
        assert metrics.streams._value.get() == len(hub.hub.streams._readers)
        return not hub.hub.streams._readers and not hub.hub.services.fanout._channels

    await eventually(nothing, within=within)
    assert len(hub.hub.socket._house.users) == 0
    (family,) = metrics.stream_ends.collect()
    counted = [sample for sample in family.samples if sample.name == "hub_stream_ends_total"]
    assert {sample.labels["reason"]: sample.value for sample in counted} == ends


async def test_what_comes_is_streamed_with_its_position(ada: Someone) -> None:
    async with ada.stream() as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        await ada.send("one two three")
        events = await stream.run()
    epochs, numbers = zip(*((event.id or "").split(":") for event in events), strict=True)
    assert len(set(epochs)) == 1
    assert [int(n) for n in numbers] == list(range(1, len(events) + 1))
    assert "".join(event.data.get("delta", "") for event in events) == "one two three"


def _told(events: Iterable[Sent]) -> list[tuple[str, str]]:
    """What the events tell, alike whether their deltas were joined or not."""
    kinds = itertools.groupby(events, lambda event: str(event.data["type"]))
    return [(kind, "".join(e.data.get("delta", "") for e in some)) for kind, some in kinds]


def _next(event: Sent) -> str:
    """The id of what comes after it."""
    epoch, _, seq = (event.id or "").partition(":")
    return f"{epoch}:{int(seq) + 1}"


@pytest.mark.parametrize("how", ["since", "Last-Event-ID"])
async def test_a_stream_goes_on_after_the_last_id_without_gap_or_repeat(
    ada: Someone, how: str
) -> None:
    async with ada.stream("?since=start") as stream:
        await ada.send("one two three")
        whole = await stream.run()
    last = whole[2].id or ""
    query, headers = (f"?since={last}", {}) if how == "since" else ("", {how: last})
    async with ada.stream(query, **headers) as again:
        rest = await again.run()
        assert _told(rest) == _told(whole[3:])
        assert rest[-1] == whole[-1]
        await ada.send("four")
        assert (await again.run())[0].id == _next(whole[-1])


async def test_the_last_event_id_counts_for_more_than_since(ada: Someone) -> None:
    async with ada.stream("?since=start") as stream:
        await ada.send("one two three")
        whole = await stream.run()
    async with ada.stream("?since=start", **{"Last-Event-ID": whole[2].id or ""}) as again:
        first = await again.next()
        assert first is not None
        assert first.data["type"] == whole[3].data["type"]
        assert first.data.get("delta", "").startswith(whole[3].data.get("delta", ""))


async def test_what_the_log_cannot_continue_begins_with_a_snapshot(ada: Someone) -> None:
    async with ada.stream("?since=start") as stream:
        await ada.send("first")
        whole = await stream.run()
    async with ada.stream("?since=elsewhere:3") as again:
        snapshot = await again.next()
        assert snapshot is not None
        assert (snapshot.name, snapshot.id) == ("snapshot", whole[-1].id)
        assert snapshot.data["type"] == "MESSAGES_SNAPSHOT"
        assert [m["content"] for m in snapshot.data["messages"]] == ["first", "first"]
        await ada.send("second")
        following = await again.run()
        assert following[0].id == _next(whole[-1])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Fault("backend_unavailable"), "backend_unavailable"), (ValueError("?"), "internal_error")],
)
async def test_a_stream_that_cannot_be_replayed_says_so_and_ends(
    ada: Someone,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    request: pytest.FixtureRequest,
) -> None:
    if reason == "internal_error":
        request.getfixturevalue("failing")
    backplane = ada.hub.hub.services.backplane
    read = backplane.read
    much = b'{"type":"CUSTOM","value":"%s"}' % (b"x" * AT_HAND_BYTES)
    await backplane.append(f"conversation:{ada.conversation}", much)

    async def fails(channel: str, after: int, limit: int = 1_000, most: int = 0) -> LogSlice:
        if most == PAGE_BYTES:  # a replay's; before, it is asked where the log stands
            raise error
        return await read(channel, after, limit, most)

    monkeypatch.setattr(backplane, "read", fails)
    async with ada.stream("?since=start") as stream:
        end = await stream.next()
        assert end is not None
        assert (end.name, end.data) == ("ended", {"reason": reason})
        assert await stream.next() is None
    await let_go(ada.hub, {reason: 1})


async def test_a_stream_that_cannot_begin_keeps_no_seat(
    ada: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise Fault("backend_unavailable")

    monkeypatch.setattr(ada.hub.hub.services.transcript, "snapshot", fails)
    response = await ada.client.get(ada.path() + "?since=elsewhere:3", headers=ada.bearer)
    assert refused(response).reason == "backend_unavailable"
    await let_go(ada.hub, {})


async def test_a_stream_ends_within_a_second_of_the_logout(ada: Someone) -> None:
    async with ada.stream() as stream:
        await ada.ask("account.logout")
        ended = await stream.next(within=1.0)
        assert ended == Sent("ended", None, {"reason": "session_revoked"})
        assert await stream.next() is None
    await let_go(ada.hub, {"session_revoked": 1})


async def test_a_stream_ends_when_its_token_does(
    ada: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RECHECK_S", 0.2)
    ada.token = lasting(ada.hub, ada.token, 2 - LEEWAY_S)
    async with ada.stream() as stream:
        # Within the leeway, as for a request, a check changes nothing.
        ada.hub.hub.services.authority.found("user", "another")
        await ada.send("hello")
        assert (await stream.run())[0].id is not None
        assert await stream.next() == Sent("ended", None, {"reason": "token_expired"})


async def test_a_node_that_goes_away_ends_its_streams(ada: Someone) -> None:
    async with ada.stream() as stream:
        ada.hub.hub.drain()
        assert await stream.next() == Sent("ended", None, {"reason": "draining"})
        assert await stream.next() is None
    await let_go(ada.hub, {"draining": 1})


@asynccontextmanager
async def stalled(ada: Someone) -> AsyncIterator[asyncio.StreamReader]:
    """A stream whose client reads nothing, and whose response is blocked by that."""
    peer = sockets.socket()
    peer.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    peer.setblocking(False)
    host, port = ada.hub.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(peer, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=peer, limit=4_096)
    writer.write(
        f"GET {ada.path()} HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {ada.token}\r\n\r\n".encode()
    )
    await reader.readuntil(b"following")
    (stream,) = ada.hub.hub.streams._readers
    event = json.dumps({"type": "CUSTOM", "name": "flood", "value": "x" * 60_000}).encode()
    while True:
        while stream._waiting.size < 800_000:
            await ada.hub.hub.services.backplane.append(f"conversation:{ada.conversation}", event)
            await asyncio.sleep(0)
        for _ in range(500):  # turns of the loop, in which it would take more if it could
            await asyncio.sleep(0)
        if stream._waiting.size >= 800_000:
            break
    try:
        yield reader
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("why", "told"),
    [("too slow", "too_slow"), ("logout", "session_revoked"), ("drain", "draining")],
)
async def test_a_client_that_takes_nothing_is_cut_off_and_nothing_is_logged(
    ada: Someone,
    why: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if why == "too slow":
        monkeypatch.setattr(stream, "ABORT_S", 0.3)
    async with stalled(ada):
        if why == "logout":
            await ada.ask("account.logout")
        elif why == "drain":
            ada.hub.hub.drain()
        await let_go(ada.hub, {told: 1}, within=2.0)
    assert "Traceback" not in caplog.text
    assert "ASGI" not in caplog.text


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(serve_hub: ServeHub) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with serve_hub() as hub:
            hub.somebody_stays = True
            session = await hub.sign_up("ada@hub.example")
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=hub.url, trust_env=False)
            )
            someone = await Someone(hub, client, session["access_token"]).begin()
            await stack.enter_async_context(stalled(someone))
            began = loop.time()
        assert loop.time() - began < 5.0


async def test_somebody_elses_and_missing_channels_answer_the_same(ada: Someone) -> None:
    hub = ada.hub
    session = await hub.sign_up("eve@hub.example", PASSWORD)
    me = (await ada.ask("session.info"))["user_id"]
    eve = Someone(hub, ada.client, session["access_token"])
    channels = [
        f"conversation:{ada.conversation}",
        f"conversation:{new_id('c')}",
        f"user:{me}",
        f"user:{new_id('u')}",
        f"audit:{new_id('t')}",
    ]
    answers = set()
    for channel in channels:
        response = await ada.client.get(
            eve.path(channel), headers={"Authorization": f"Bearer {eve.token}"}
        )
        refusal = refused(response)
        assert refusal.reason == "not_found"
        answers.add(refusal.bytes)
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("query", "reason"),
    [("?since=yesterday", "invalid_params"), ("?from=start", "invalid_params"),
     ("?since=e:-1", "invalid_params")],
)  # fmt: skip
async def test_a_query_that_is_not_understood_is_refused(
    ada: Someone, query: str, reason: str
) -> None:
    headers = {"Authorization": f"Bearer {ada.token}"}
    assert refused(await ada.client.get(ada.path() + query, headers=headers)).reason == reason


async def test_without_credentials_there_is_no_stream(ada: Someone) -> None:
    assert refused(await ada.client.get(ada.path())).reason == "unauthenticated"


async def test_a_head_request_is_answered_and_does_not_stream(ada: Someone) -> None:
    response = await ada.client.head(ada.path(), headers={"Authorization": f"Bearer {ada.token}"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert ada.hub.hub.services.fanout._channels == {}


@pytest.mark.parametrize("read", [True, False])
async def test_nothing_is_left_of_a_stream_whose_client_leaves(ada: Someone, read: bool) -> None:
    async with httpx.AsyncClient(base_url=ada.hub.url, trust_env=False) as client:
        leaver = Someone(ada.hub, client, ada.token)
        leaver.conversation = ada.conversation
        async with leaver.stream() as stream:
            if read:
                await ada.send("one")
                await stream.next()
    await let_go(ada.hub, {"gone": 1})


async def test_a_stream_whose_task_is_cancelled_again_and_again_is_released_all_the_same() -> None:
    released: list[bool] = []
    begun = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield b": following\n\n"

    async def allowed() -> None: ...

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    reader = stream.StreamReader("conversation:c_1", Seated(House(read_settings())), lambda _: None)
    response = stream.EventResponse(content(), reader, allowed, lambda: released.append(True))
    serving = asyncio.create_task(response({"type": "http"}, receive, send))
    await begun.wait()
    for _ in range(3):
        serving.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({serving})
    assert serving.cancelled()
    assert released == [True]


async def test_the_bytes_of_an_event_are_made_once_for_all_streams(
    ada: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    channels = ada.hub.hub.services.fanout._channels

    async def live() -> bool:
        return not any(channel.joining for channel in channels.values())

    def counted(epoch: str, seq: int, event: bytes) -> bytes:
        made.append(seq)
        return encode_sent(epoch, seq, event)

    monkeypatch.setattr(delivery, "encode_sent", counted)
    event = json.dumps({"type": "CUSTOM", "name": "told", "value": 1}).encode()
    async with ada.stream() as one, ada.stream() as two, ada.stream() as three:
        for stream in (one, two, three):
            await stream.begun()
        await eventually(live)
        for _ in range(5):
            await ada.hub.hub.services.backplane.append(f"conversation:{ada.conversation}", event)
        sent = [[await stream.next() for _ in range(5)] for stream in (one, two, three)]
    assert sent[0] == sent[1] == sent[2]
    assert made == [1, 2, 3, 4, 5]


async def test_what_waits_for_a_stream_is_seen_beside_what_waits_for_sockets(ada: Someone) -> None:
    metrics = ada.hub.hub.services.metrics
    async with open_socket(ada.hub.ws_url, ada.token) as socket, stalled(ada):
        await socket.notice("session.ready")
        value = metrics.registry.get_sample_value
        assert value("hub_outbox_bytes_bucket", {"le": "+Inf"}) == 2
        assert value("hub_outbox_bytes_bucket", {"le": "0.0"}) == 1
        assert (value("hub_outbox_bytes_gsum") or 0) >= 800_000
        assert (value("hub_connections"), value("hub_streams")) == (1, 1)
