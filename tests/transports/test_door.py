"""The door: which connections it is handed, and that they are answered whatever becomes of them.

Two hubs on one database stand for two processes; one of them is the other's door.
"""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.transports.door import MOST_BYTES, Door, Handover, asks_for_door, pair, turn_away
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

WITHIN_S: Final = 15.0
ADA: Final = "ada@hub.example"
SIGN_IN: Final = json.dumps({"email": ADA, "password": PASSWORD})
JSON: Final = {"Content-Type": "application/json"}


class Both(NamedTuple):
    """The hub that people come to, and what its sign-ins are handed over by."""

    hub: ServedHub
    handover: Handover
    door: ServedHub
    near: socket.socket
    far: socket.socket

    def count(self, outcome: str) -> int:
        """How many connections became that, as who counts them says."""
        of = self.door if outcome == "taken" else self.hub
        registry = of.hub.services.metrics.registry
        return int(registry.get_sample_value("hub_door_total", {"outcome": outcome}) or 0)

    def _clients(self) -> list[Any]:
        """The addresses from which there are connections here."""
        connections = self.hub.server.server_state.connections
        return [getattr(each, "client", None) for each in connections]

    async def handed(self) -> None:
        """Wait until one was handed over."""
        async with asyncio.timeout(WITHIN_S):
            while not self.count("handed"):  # noqa: ASYNC110  # a number
                await asyncio.sleep(0)

    @property
    def port(self) -> int:
        return int(self.hub.url.rpartition(":")[2])

    async def answer(self, *parts: bytes, pause_s: float = 0.0) -> bytes:
        """All that is answered to what is sent part by part, until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with closing(writer):
            here = writer.get_extra_info("sockname")
            async with asyncio.timeout(WITHIN_S):
                while here not in self._clients():  # noqa: ASYNC110  # of uvicorn's
                    await asyncio.sleep(0)  # else parts that are sent meanwhile come as one
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return await asyncio.wait_for(reader.read(), WITHIN_S)


@pytest.fixture
async def both(serve_hub: ServeHub) -> AsyncIterator[Both]:
    near, far = pair()
    with near, far:
        async with serve_hub() as hub, serve_hub() as door:
            await hub.sign_up(ADA)
            handover = Handover(near, hub.hub.services.metrics.door)
            hub.server.server_state.handover = handover
            taking = Door(far, door.server.handed_over, door.hub.services.metrics.door)
            taking.open()
            handover.open = True
            yield Both(hub, handover, door, near, far)
            taking.close()


def request(padding: int = 0) -> bytes:
    """A sign-in, whole, on a connection that ends with its answer."""
    data = SIGN_IN.encode()
    head = (
        "POST /v1/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nX-Padding: {padding * 'x'}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def let_in(answer: bytes) -> bool:
    """Whether somebody was signed in by it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and "access_token" in json.loads(body)


async def test_a_sign_in_is_the_doors(both: Both) -> None:
    assert let_in(await both.answer(request()))
    assert (both.count("handed"), both.count("taken"), both.count("kept")) == (1, 1, 0)
    assert both.hub.server.connected() == 0


async def test_a_connection_that_goes_on_is_the_doors_from_its_sign_in_on(both: Both) -> None:
    def visits() -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", both.port, WITHIN_S)
        headers, statuses, sockets = dict(JSON), [], set[Any]()
        with closing(connection):
            for method, path, body in (
                ("GET", "/health/live", None),
                ("POST", "/v1/auth/login", SIGN_IN),
                ("GET", "/v1/account", None),
                ("POST", "/v1/auth/logout", "{}"),
            ):
                connection.request(method, path, body, headers)
                sockets.add(connection.sock)
                answer = connection.getresponse()
                content = answer.read()
                statuses.append(answer.status)
                if path.endswith("login"):
                    token = json.loads(content)["access_token"]
                    headers["Authorization"] = f"Bearer {token}"
        assert len(sockets) == 1, "it was one connection all the time"
        return statuses

    assert await asyncio.to_thread(visits) == [200, 200, 200, 200]
    assert (both.count("handed"), both.count("taken")) == (1, 1)


async def test_the_door_knows_from_where_one_comes(both: Both) -> None:
    def from_elsewhere() -> str:
        connection = http.client.HTTPConnection(
            "127.0.0.1", both.port, WITHIN_S, source_address=("127.0.0.9", 0)
        )
        with closing(connection):
            connection.request("POST", "/v1/auth/login", SIGN_IN, JSON)
            token = json.loads(connection.getresponse().read())["access_token"]
            connection.request("GET", "/v1/sessions", headers={"Authorization": f"Bearer {token}"})
            found = json.loads(connection.getresponse().read())["items"]
        [address] = [each["address"] for each in found if each["current"]]
        return str(address)

    assert await asyncio.to_thread(from_elsewhere) == "127.0.0.9"
    assert both.count("taken") == 1


async def test_what_follows_in_other_packets_is_read_by_the_door(both: Both) -> None:
    whole = request()
    answer = await both.answer(whole[:60], whole[60:150], whole[150:], pause_s=0.03)
    assert let_in(answer)
    assert both.count("taken") == 1


@pytest.mark.parametrize("first", [7, 0])
async def test_one_that_does_not_say_at_once_what_it_asks_for_is_answered_where_it_came(
    both: Both, first: int
) -> None:
    whole = b"\r\n" * (not first) + request()
    assert let_in(await both.answer(whole[: first or 2], whole[first or 2 :], pause_s=0.03))
    assert (both.count("handed"), both.count("taken")) == (0, 0)


async def test_one_of_which_much_has_come_is_answered_where_it_came(both: Both) -> None:
    assert let_in(await both.answer(request(padding=MOST_BYTES)))
    assert (both.count("handed"), both.count("kept")) == (0, 1)


async def test_a_sign_in_behind_another_request_is_answered_after_it(both: Both) -> None:
    first = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = await both.answer(first + request())
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert let_in(answer[answer.rindex(b"HTTP/1.1 200 ") :])


async def test_a_body_that_looks_like_a_sign_in_is_a_body(both: Both) -> None:
    inner = request()
    outer = (
        b"POST /v1/conversations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(inner)
    )
    answer = await both.answer(outer, inner, pause_s=0.05)
    assert answer.startswith(b"HTTP/1.1 4")
    assert both.count("handed") == 0


async def test_the_body_of_a_request_that_was_answered_before_it_came_is_no_sign_in(
    both: Both,
) -> None:
    inner = request()
    outer = b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(inner)
    reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
    with closing(writer):
        writer.write(outer)
        assert b"404" in await asyncio.wait_for(reader.readline(), WITHIN_S)
        writer.write(inner)
        await writer.drain()
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        rest = await asyncio.wait_for(reader.read(), WITHIN_S)
    assert b"access_token" not in rest
    assert both.count("handed") == 0


async def test_without_a_door_a_sign_in_is_answered_where_it_came(both: Both) -> None:
    both.handover.open = False
    assert let_in(await both.answer(request()))
    assert (both.count("handed"), both.count("kept")) == (0, 1)


async def test_who_finds_the_door_full_is_answered_where_they_came(both: Both) -> None:
    asyncio.get_running_loop().remove_reader(both.far)
    with suppress(BlockingIOError):
        while True:
            socket.send_fds(both.near, [b"x" * MOST_BYTES], [both.far.fileno()])
    assert let_in(await both.answer(request()))
    assert both.count("kept") == 1
    assert turn_away(both.far) > 0


async def test_who_stands_at_a_door_that_is_gone_is_turned_away(both: Both) -> None:
    asyncio.get_running_loop().remove_reader(both.far)
    asking = asyncio.create_task(both.answer(request()))
    await both.handed()
    assert turn_away(both.far) == 1
    with suppress(ConnectionResetError):  # what it had sent was not read
        assert await asking == b""


async def test_a_client_that_has_gone_when_it_is_taken_in_holds_nothing_up(both: Both) -> None:
    asyncio.get_running_loop().remove_reader(both.far)
    _, writer = await asyncio.open_connection("127.0.0.1", both.port)
    writer.write(request())
    await both.handed()
    writer.transport.abort()
    taking = Door(both.far, both.door.server.handed_over, both.door.hub.services.metrics.door)
    taking.open()
    assert let_in(await both.answer(request()))
    assert both.count("taken") == 2


@given(st.binary(max_size=40))
@example(b"GET /v1/auth")
@example(b"POST  /v1/auth/login HTTP/1.1\r\n")
@example(b"POST /v1/authors HTTP/1.1\r\n")
@example(b"GET /ws HTTP/1.1\r\nReferer: POST /v1/auth/\r\n")
def test_nothing_else_asks_for_the_door(data: bytes) -> None:
    method, _, rest = data.partition(b" ")
    asks = method.isalpha() and method.isupper() and rest.startswith(b"/v1/auth/")
    assert asks_for_door(data) == (asks and len(method) <= 16)
