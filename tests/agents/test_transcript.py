"""Snapshots of a conversation: its state at a position of its log, whatever becomes of that."""

from collections.abc import Callable

import pytest

from hub.agents.conversations import transcript
from hub.agents.conversations.transcript import Transcript
from hub.backplane.interface import READ_BYTES, LogSlice, Position
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events import vocabulary as say
from hub.storage.database import Database
from tests.faults.resumers import House, begin_house


class Interrupted(MemoryBackplane):
    """A backplane to which something happens after its first answer."""

    def __init__(self, shared: MemoryShared, happens: Callable[[], None]) -> None:
        super().__init__(shared)
        self._happens: Callable[[], None] | None = happens

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        answer = await super().read(channel, after, limit, most)
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()
        return answer


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url  # what is read back here is the log, whichever database is beside it


@pytest.fixture
async def house(database: Database) -> House:
    return await begin_house(database, "a house")


async def test_a_log_that_is_lost_while_it_is_read_is_read_from_its_new_beginning(
    database: Database, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "_PAGE", 3)
    channel = f"conversation:{house.conversation}"
    shared = MemoryShared()

    def append(*events: bytes) -> Position:
        log = shared.logs.begun(channel, shared.clock())
        for event in events:
            shared.logs.append(channel, log, event, shared.clock())
        return Position(log.epoch, log.seq)

    at: list[Position] = []

    def lose() -> None:
        shared.clear()
        begun = say.run_started(house.conversation, "r_2", [])
        words = [say.text_content("m_2", word) for word in ("all ", "of ", "it")]
        at.append(append(begun, say.text_start("m_2"), *words))

    append(say.run_started(house.conversation, "r_1", []), say.text_start("m_1"))
    append(say.text_content("m_1", "lost"), say.text_content("m_1", " as well"))
    backplane = Interrupted(shared, lose)
    taken = await Transcript(database, backplane).snapshot(house.tenant, house.conversation)
    assert taken.position == at[0]
    said = {"id": "m_2", "role": "assistant", "content": "all of it"}
    assert taken.event["messages"] == [said]
