"""Followers: a child with clients that follow an answer on one node, until what let them do so is
taken away on another.

Times are of the machine's monotonic clock. A subscription that is moved to another log
(``resume_gap``) is made again, as a client does, and has not ended.
"""

import asyncio
import json
import random
import time
from typing import Any, Final

import uvloop

from tests.bench.child import obey
from tests.bench.node import subscription
from tests.bench.socket import Socket, open_sockets

ANSWER_S: Final = 30.0
AGAIN_S: Final = 0.1
"""Before it is subscribed again while the log that is to be read is not there yet."""
APART_S: Final = 0.05
"""Up to so long a pause between two trials, so that they do not fall into step."""
POLL_S: Final = 0.01


async def ask(
    port: int, method: str, path: str, token: str, body: dict[str, Any]
) -> tuple[int, bytes]:
    """The status and the body of an answer, on a connection of its own."""
    data = json.dumps(body).encode() if body or method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if data:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + b"\r\n" + data)
            answer = await reader.read()
        finally:
            writer.close()
    first, _, content = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1]), content


async def done(
    port: int, method: str, path: str, token: str, body: dict[str, Any]
) -> dict[str, Any]:
    """What a request that succeeds is answered. Raises RuntimeError for one that does not."""
    status, content = await ask(port, method, path, token, body)
    if not 200 <= status < 300:
        raise RuntimeError(f"{method} {path}: {status} {content.decode()}")
    answered: dict[str, Any] = json.loads(content)
    return answered


class Follower:
    """A socket that follows a conversation. ``ended``: when it was said to be over, and why."""

    def __init__(self, socket: Socket, case: dict[str, Any]) -> None:
        self.case = case
        self.events = 0
        self.run_id = ""
        self.ended: asyncio.Future[tuple[float, str]] = asyncio.get_running_loop().create_future()
        self._socket = socket
        socket.heard = self._heard
        socket.lost = lambda _: self._end("closed")
        self._subscribe()

    def leave(self) -> None:
        self._end("left")
        self._socket.close()

    def _subscribe(self) -> None:
        if not self._socket.closed:
            self._socket.send(subscription(self.case["conversation"]))

    def _heard(self, payload: bytes) -> None:
        if b'"method":"event"' in payload[:40]:
            self.events += 1
            return
        frame = json.loads(payload)
        if "error" in frame:
            reason = frame["error"]["data"]["reason"]
            if reason == "backend_unavailable":
                asyncio.get_running_loop().call_later(AGAIN_S, self._subscribe)
            else:
                self._end(reason)
        elif frame.get("method") == "session.revoked":
            self._end(frame["params"]["reason"])
        elif frame.get("method") == "subscription.ended":
            reason = frame["params"]["reason"]
            if reason == "resume_gap":
                self._subscribe()
            else:
                self._end(reason)

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result((time.monotonic(), reason))


class Followers:
    """Those of one batch of trials."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    async def follow(self, port: int, cases: list[dict[str, Any]], content: str) -> None:
        """Follow the conversations, each of whose owners asks for an answer."""
        tokens = [case["token"] for case in cases]
        sockets = await open_sockets(
            port, "/ws", len(tokens), subprotocol="agenthub.v1", tokens=tokens
        )
        self._followers = [Follower(*each) for each in zip(sockets, cases, strict=True)]
        message = {"client_message_id": "1", "content": content}
        for one in self._followers:
            path = f"/v1/conversations/{one.case['conversation']}/messages"
            sent = await done(port, "POST", path, one.case["owner"], message)
            one.run_id = sent["run_id"]

    async def flowing(self, within: float) -> None:
        """Wait until each hears an event from now on. Raises RuntimeError if one does not."""
        before = [one.events for one in self._followers]
        deadline = time.monotonic() + within
        while True:
            still = [o for o, was in zip(self._followers, before, strict=True) if o.events == was]
            if not still:
                break
            if time.monotonic() > deadline:
                why = [one.ended.result()[1] if one.ended.done() else "quiet" for one in still]
                raise RuntimeError(f"{len(still)} hear nothing: {why}")
            await asyncio.sleep(POLL_S)

    async def ready(self, port: int, ready: bool, within: float) -> None:
        """Wait until a node says of itself that it is ready, or is not. Raises TimeoutError."""
        wanted = 200 if ready else 503
        async with asyncio.timeout(within):
            while True:
                if (await ask(port, "GET", "/health/ready", "", {}))[0] == wanted:
                    return
                await asyncio.sleep(POLL_S)

    async def in_turn(self, port: int, within: float) -> list[list[Any]]:
        """One trial after the other, asked on the node at ``port``; see ``_trial``."""
        told = []
        for one in self._followers:
            await asyncio.sleep(random.uniform(0, APART_S))
            told.append(await _trial(one, port, within))
        return told

    async def at_once(self, port: int, over: float, within: float) -> list[list[Any]]:
        """All trials side by side, begun at any moments of the next ``over`` seconds."""

        async def begun(one: Follower, after: float) -> list[Any]:
            await asyncio.sleep(after)
            return await _trial(one, port, within)

        # Evenly: where in a node's round they fall is what the delay depends on.
        each = over / len(self._followers)
        trials = (begun(one, number * each) for number, one in enumerate(self._followers))
        return list(await asyncio.gather(*trials))

    async def leave(self, port: int) -> None:
        """Go, and have the answers cancelled that are still being given."""
        for one in self._followers:
            one.leave()
            await ask(port, "POST", f"/v1/runs/{one.run_id}/cancel", one.case["owner"], {})
        self._followers = []


async def _trial(one: Follower, port: int, within: float) -> list[Any]:
    """Its kind; seconds from the request that takes it away to the end, and from its answer to the
    end, 0 if the end came first; and the reason. Of what has not ended ``within``: None.
    """
    if one.ended.done():
        raise RuntimeError(f"{one.case['kind']}: it had ended before, {one.ended.result()[1]}")
    asked = time.monotonic()
    while True:
        status, _ = await ask(port, *one.case["take"])
        if status != 503:
            break
        await asyncio.sleep(AGAIN_S)  # as a client does who is told to come again
    answered = time.monotonic()
    if not 200 <= status < 300:
        raise RuntimeError(f"{one.case['kind']}: {status}")
    try:
        ended, reason = await asyncio.wait_for(asyncio.shield(one.ended), within)
    except TimeoutError:
        return [one.case["kind"], None, None, None]
    return [one.case["kind"], ended - asked, max(0.0, ended - answered), reason]


async def main() -> None:
    random.seed(7)
    followers = Followers()
    await obey(
        {},
        {
            "follow": followers.follow,
            "flowing": followers.flowing,
            "ready": followers.ready,
            "in_turn": followers.in_turn,
            "at_once": followers.at_once,
            "leave": followers.leave,
        },
    )


if __name__ == "__main__":
    uvloop.run(main())
