"""The main job, through every room: sign in, one socket, a durable message, a run, tokens."""

from hub_client import connect

from tests.parts.hub import ServedHub


async def test_an_answer_streams_to_the_client_and_is_durable(served_hub: ServedHub) -> None:
    session = await served_hub.sign_up("ada@hub.example")
    async with connect(served_hub.url, token=session["access_token"]) as hub:
        conversation = await hub.conversations.create(title="Sky", model="echo")
        events = [event async for event in conversation.send("Why is the sky blue?")]
        kinds = [event.type for event in events]
        assert kinds[0] == "RUN_STARTED"
        assert kinds[-1] == "RUN_FINISHED"
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        said = "".join(event.delta or "" for event in events)
        messages = [message async for message in conversation.messages()]
        assert [message.role for message in messages] == ["user", "assistant"]
        assert messages[1].content == said
        assert "sky" in said
