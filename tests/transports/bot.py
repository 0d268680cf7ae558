"""A bot on a plain socket: a persistent session, and what it has taken in of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.interaction.drivers import Socket, open_socket


@asynccontextmanager
async def bot(ws_url: str, token: str, key: str = "bot-7") -> AsyncIterator[Socket]:
    """A connection with a persistent session."""
    async with open_socket(ws_url, token, headers={"Hub-Session-Key": key}) as socket:
        yield socket


async def acknowledge(socket: Socket, *events: dict[str, Any]) -> dict[str, Any]:
    """The answer to saying that these events, or positions, are dealt with."""
    taken = [{key: event[key] for key in ("channel", "epoch", "seq")} for event in events]
    return await socket.ask("channel.acknowledge", {"channels": taken})


async def conversation(socket: Socket) -> tuple[str, str]:
    """A new conversation: its id and its channel."""
    made = await socket.ask("conversation.create", {"model": "echo"})
    return made["id"], f"conversation:{made['id']}"


async def send(socket: Socket, conversation: str, content: str) -> None:
    await socket.ask(
        "message.send",
        {"conversation_id": conversation, "client_message_id": content, "content": content},
    )


async def run(socket: Socket) -> list[dict[str, Any]]:
    """The events up to the end of a run."""
    events = [await socket.event()]
    while events[-1]["event"]["type"] not in ("RUN_FINISHED", "RUN_ERROR"):
        events.append(await socket.event())
    return events


async def history(socket: Socket, channel: str) -> list[dict[str, Any]]:
    """The events of the channel's log, as they are delivered."""
    page = await socket.ask("channel.history", {"channel": channel, "limit": 200})
    assert page["last"] <= 200
    return [{"channel": channel, "epoch": page["epoch"], **item} for item in page["items"]]


def stands_for(events: list[dict[str, Any]]) -> tuple[list[int], str]:
    """The positions that the events stand for, spans included, and the text that they tell."""
    numbers = [
        seq
        for event in events
        for seq in range(event["seq"] - event.get("span", 1) + 1, event["seq"] + 1)
    ]
    return numbers, "".join(event["event"].get("delta", "") for event in events)
