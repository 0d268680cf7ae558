"""A hub of a hundred lines on a real socket, to show the SDK what a real hub cannot be made to:
connections that break at a chosen frame, close codes, logs that are lost, replies out of order.
"""

import asyncio
import itertools
import json
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Params = dict[str, Any]
Handler = Callable[[Params], Awaitable[Any]]
NOW = "2026-01-02T03:04:05.000000Z"


def steps(*names: str) -> list[Params]:
    return [{"type": "STEP_STARTED", "stepName": name} for name in names]


class Refusal(Exception):
    """A handler's way to answer with a fault."""

    def __init__(self, code: int, reason: str, **details: Any) -> None:
        self.error = {
            "code": code,
            "message": f"scripted {reason}",
            "data": {"reason": reason, "retryable": False, "details": details},
        }


@dataclass
class Log:
    epoch: str = "e1"
    seq: int = 0
    first: int = 1
    entries: list[Params] = field(default_factory=list)


class Peer:
    """One WebSocket of a client."""

    def __init__(self, send: Callable[[Params], Awaitable[None]], token: str) -> None:
        self.asgi_send = send
        self.token = token
        self.channels: set[str] = set()

    async def say(self, frame: Params) -> None:
        text = json.dumps({"jsonrpc": "2.0"} | frame)
        await self.asgi_send({"type": "websocket.send", "text": text})

    async def notify(self, method: str, params: Params) -> None:
        await self.say({"method": method, "params": params})

    async def close(self, code: int, reason: str = "") -> None:
        await self.asgi_send({"type": "websocket.close", "code": code, "reason": reason})


class ScriptedHub:
    def __init__(self) -> None:
        self.port = 0
        self.logs: dict[str, Log] = defaultdict(Log)
        self.peers: list[Peer] = []
        self.joined: asyncio.Queue[Peer] = asyncio.Queue()
        self.calls: list[tuple[str, Params]] = []
        self.called: asyncio.Queue[tuple[str, Params]] = asyncio.Queue()
        self.posts: list[tuple[str, Params]] = []
        self.refused: list[str] = []  # what the client has said to requests of the hub
        self.answers: dict[str, Handler] = {
            "channel.subscribe": self.subscribe,
            "channel.history": self.history,
            "channel.unsubscribe": self.nothing,
            "session.ping": self.ping,
            "session.refresh": self.ping,
        }
        self.http: dict[str, Handler] = {}
        self.tokens: set[str] | None = None
        self.greet = True
        self.numbers = itertools.count(1)
        self._server: uvicorn.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- what tests do to it ---

    async def emit(self, channel: str, *events: Params, span: int = 1) -> None:
        for event in events:
            log = self.logs[channel]
            log.seq += span
            entry = {"channel": channel, "epoch": log.epoch, "seq": log.seq, "event": event}
            if span > 1:
                entry["span"] = span
            log.entries.append(entry)
            for peer in list(self.peers):
                if channel in peer.channels:
                    await peer.notify("event", entry)

    def forget(self, channel: str, epoch: str | None = None) -> None:
        """Lose the log's entries, and the log too if there is another epoch."""
        log = self.logs[channel]
        log.entries.clear()
        log.first = log.seq + 1
        if epoch is not None:
            self.logs[channel] = Log(epoch)

    async def cut(self) -> None:
        """Break every connection without a close frame."""
        assert self._server is not None
        self.peers.clear()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        for peer in list(self.peers):
            self.peers.remove(peer)
            await peer.close(code, reason)

    async def until(self, method: str) -> Params:
        """Wait for the next call of this method."""
        async with asyncio.timeout(5):
            while True:
                name, params = await self.called.get()
                if name == method:
                    return params

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)

    # --- methods ---

    snapshot: list[Params] | None = None

    async def subscribe(self, params: Params) -> Params:
        log = self.logs[params["channel"]]
        since = params["since"]
        recovered, at = True, log.seq
        if since == "start":
            at = log.first - 1
        elif since is not None:
            at = since["seq"]
            recovered = since["epoch"] == log.epoch and log.first - 1 <= at <= log.seq
        if recovered:
            return {"epoch": log.epoch, "seq": at, "recovered": True}
        snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": self.snapshot or []}
        return {"epoch": log.epoch, "seq": log.seq, "recovered": False, "snapshot": snapshot}

    async def history(self, params: Params) -> Params:
        log, after = self.logs[params["channel"]], params["after"]
        if after and after < log.first - 1:
            raise Refusal(4100, "resume_gap")
        later = [
            {"seq": entry["seq"], "event": entry["event"]}
            for entry in log.entries
            if entry["seq"] > after
        ]
        page = later[: min(params["limit"], 3)]
        return {"epoch": log.epoch, "first": log.first, "last": log.seq, "items": page}

    async def nothing(self, params: Params) -> Params:
        return {}

    async def ping(self, params: Params) -> Params:
        return {"time": NOW, "expires_at": NOW}

    # --- ASGI ---

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        await send({"type": "websocket.accept", "subprotocol": "agenthub.v1"})
        peer = Peer(send, token)
        if self.tokens is not None and token not in self.tokens:
            return await peer.close(4500, "invalid_token")
        if self.greet:
            ready = {"protocol": "agenthub.v1", "connection_id": f"k_{next(self.numbers)}"}
            await peer.notify("session.ready", ready)
            self.peers.append(peer)
        self.joined.put_nowait(peer)
        while (message := await receive())["type"] == "websocket.receive":
            task = asyncio.create_task(self._answer(peer, json.loads(message["text"])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if peer in self.peers:
            self.peers.remove(peer)
        return None

    async def _answer(self, peer: Peer, frame: Params) -> None:
        if "error" in frame:
            return self.refused.append(frame["error"]["message"])
        method, params = frame["method"], frame.get("params", {})
        self.calls.append((method, params))
        self.called.put_nowait((method, params))
        try:
            if method not in self.answers:
                raise Refusal(-32601, "method_not_found")
            result = await self.answers[method](params)
        except Refusal as refusal:
            return await peer.say({"id": frame["id"], "error": refusal.error})
        if peer not in self.peers:
            return None
        await peer.say({"id": frame["id"], "result": result})
        if method == "channel.subscribe":
            peer.channels.add(params["channel"])
            for entry in self.logs[params["channel"]].entries:
                if entry["seq"] > result["seq"]:
                    await peer.notify("event", entry)
        elif method == "channel.unsubscribe":
            peer.channels.discard(params["channel"])
        return None

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        params = json.loads(body)
        self.posts.append((scope["path"], params))
        status = 200
        try:
            result = await self.http[scope["path"]](params)
        except Refusal as refusal:
            result, status = {"error": refusal.error}, 401
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(result).encode()})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedHub"]:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        config.load()
        self._server = server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not serve(): its loop looks up ten times a second, which is a long time for a test.
        await server.startup([listener])
        try:
            yield self
        finally:
            await self.cut()
            server.force_exit = True
            await server.shutdown([listener])


class Conversations(ScriptedHub):
    """A scripted hub that has messages and runs; ``script`` plays each run."""

    channel = "conversation:c_1"

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Params] = {}
        self.sent: dict[str, Params] = {}
        self.stored: list[Params] = []
        self.script: Callable[[str], Coroutine[Any, Any, None]] = self.answer
        self.words = ["Hello", " ", "there"]
        self.answers |= {
            "conversation.create": self.create,
            "conversation.get": self.create,
            "message.send": self.send,
            "message.list": self.listing(lambda: self.stored),
            "run.list": self.listing(lambda: list(self.runs.values())),
            "run.get": self.get_run,
            "run.cancel": self.get_run,
            "model.list": self.listing(lambda: [{"name": "tiny", "stand_in": True}]),
        }

    async def create(self, params: Params) -> Params:
        return {"id": "c_1", "created_at": NOW, "updated_at": NOW} | params

    def listing(self, items: Callable[[], list[Params]]) -> Handler:
        async def page(params: Params) -> Params:
            begin = int(params.get("cursor", "0"))
            found = items()
            more = {"next_cursor": str(begin + 2)} if begin + 2 < len(found) else {}
            return {"items": found[begin : begin + 2]} | more

        return page

    async def send(self, params: Params) -> Params:
        key = params["client_message_id"]
        if key not in self.sent:
            number = next(self.numbers)
            run, message = f"r_{number}", f"m_{number}"
            self.sent[key] = {"message_id": message, "run_id": run}
            self.runs[run] = {
                "id": run,
                "conversation_id": "c_1",
                "message_id": message,
                "status": "running",
            }
            self.store(message, run, "user", params["content"])
            task = asyncio.create_task(self.script(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self.sent[key]

    def store(self, id: str, run: str, role: str, content: str) -> None:
        self.stored.append(
            {
                "id": id,
                "conversation_id": "c_1",
                "run_id": run,
                "role": role,
                "content": content,
                "created_at": NOW,
            }
        )

    async def get_run(self, params: Params) -> Params:
        if params["run_id"] not in self.runs:
            raise Refusal(4040, "not_found")
        return self.runs[params["run_id"]]

    async def begin(self, run: str) -> str:
        message = f"a_{run}"
        await self.emit(
            self.channel,
            {"type": "RUN_STARTED", "threadId": "c_1", "runId": run},
            {"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"},
        )
        return message

    async def say(self, message: str, *words: str) -> None:
        for word in words:
            delta = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": word}
            await self.emit(self.channel, delta)

    async def finish(self, run: str, message: str, text: str) -> None:
        self.store(message, run, "assistant", text)
        usage = [{"provider": "p", "model": "tiny", "input_tokens": 3, "output_tokens": 2}]
        self.runs[run] |= {"status": "succeeded", "usage": usage}
        said = [{"provider": "p", "model": "tiny", "inputTokens": 3, "outputTokens": 2}]
        end = {"type": "RUN_FINISHED", "threadId": "c_1", "runId": run}
        await self.emit(
            self.channel,
            {"type": "TEXT_MESSAGE_END", "messageId": message},
            end | {"outcome": {"type": "success"}, "usage": said},
        )

    async def answer(self, run: str) -> None:
        message = await self.begin(run)
        await self.say(message, *self.words)
        await self.finish(run, message, "".join(self.words))
