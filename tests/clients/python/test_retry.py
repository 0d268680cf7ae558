"""Coming back: full jitter, bounded, and not in a hurry where the hub says so."""

import asyncio
import time

from hub_client.addresses import parse_address
from hub_client.postponed import PostponedChannels
from hub_client.retry import CAP_S, FIRST_S, STABLE_S, Backoff
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 100))
def test_a_wait_is_drawn_evenly_below_a_bound_that_doubles_to_a_cap(
    drawn: float, failures: int
) -> None:
    backoff = Backoff(lambda: drawn)
    for _ in range(failures):
        backoff.failed()
    assert backoff.failed() == drawn * min(CAP_S, FIRST_S * 2**failures)


def test_a_connection_that_held_ends_the_row_of_failures() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.failed()
    assert backoff.lost(ready_for=60.0) == FIRST_S


def test_a_hub_that_accepts_and_closes_at_once_is_called_ever_more_slowly() -> None:
    backoff = Backoff(lambda: 1.0)
    waits = [backoff.lost(ready_for=0.1) for _ in range(8)]
    assert waits == sorted(waits)
    assert waits[-1] == CAP_S


def test_a_draining_hub_is_given_the_time_it_asked_for() -> None:
    assert Backoff(lambda: 0.0).lost(ready_for=60, code=4001, retry_after=7.5) == 7.5


def test_after_too_many_frames_the_client_returns_more_slowly() -> None:
    assert Backoff(lambda: 1.0).lost(ready_for=60, code=4029) == 8.0


def test_an_address_is_what_a_person_would_write() -> None:
    assert parse_address("127.0.0.1:8000").socket == "ws://127.0.0.1:8000/ws"
    assert parse_address("https://hub.example/a/").socket == "wss://hub.example/a/ws"
    assert parse_address("wss://hub.example/ws").http == "https://hub.example"
    assert parse_address("http://[::1]:8000").local
    assert not parse_address("https://hub.example").local


async def test_a_channel_that_stays_away_is_asked_for_ever_less_often() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()
    drawn: list[float] = []

    def draw() -> float:
        drawn.append(0.0)
        return 0.0

    backoff = Backoff(draw)
    channels = PostponedChannels(backoff, asked.put_nowait)
    for _ in range(3):
        channels.postpone("user:u_1", 0.0)
        assert await asyncio.wait_for(asked.get(), 5) == "user:u_1"
    assert channels._waits["user:u_1"].backoff.failures == 3
    channels.live("user:u_1")
    channels.postpone("user:u_1", 0.0)
    assert channels._waits["user:u_1"].backoff.failures == 4, "it was there for a moment only"
    channels._waits["user:u_1"].live_since = time.monotonic() - STABLE_S
    channels.postpone("user:u_1", 60.0)
    assert channels._waits["user:u_1"].backoff.failures == 1
    assert backoff.failures == 0, "the connection's own backoff is another matter"
    assert len(drawn) == 5
    channels.close()
    assert channels._waits == {}
