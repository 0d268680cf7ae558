"""Persistent sessions of clients: what a bot follows, and where it was, kept while it is away.

A session is named by its client's own key, within a tenant and a user. The database holds it, so
that it outlives the bot, the node and the backplane. It belongs to one connection at a time: each
that takes it has the next ``turn``, in the transaction that reads it, and can write for as long as
no other has had one. Who lost it is told by a control message; should that be lost, it finds out
at its next write, or at its node's next sweep.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, cast

import orjson
from sqlalchemy import CursorResult, delete, func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.backplane.interface import Backplane, Position
from hub.faults import Fault
from hub.ids import new_id
from hub.rounds import Rounds
from hub.storage.database import Database
from hub.storage.padding import padded
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ClientSession, User, now
from hub.telemetry.logs import log

TOPIC: Final = "client-sessions"
SWEEP_S: Final = 600.0
"""How often sessions that are connected are renewed, and those that have expired deleted."""

_FORGOTTEN: Final = 2**53
"""The turn after all turns: of a session that is no more."""

_BATCH: Final = 200


class Replaced(Exception):
    """The session belongs to another connection now, or was forgotten. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A session in one connection's turn. ``channels``: what it remembered at its beginning.
    ``resumed``: it was there before.
    """

    id: str
    tenant_id: str
    user_id: str
    key: str
    turn: int
    channels: Mapping[str, Position]
    resumed: bool


class _Hold(NamedTuple):
    turn: int
    lost: Callable[[], None]


class ClientSessions:
    """The persistent sessions. ``await start()`` … ``await close()``.

    Methods raise Fault("backend_unavailable") when the database cannot be used.
    """

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        *,
        keep_s: float,
        most: int,
        sweep_s: float = SWEEP_S,
    ) -> None:
        """``keep_s``: how long a session is kept after it was last connected; ``most``: how many
        a user may have in a tenant.
        """
        self._database = database
        self._backplane = backplane
        # Renewed every sweep_s: it was connected at the most that long after.
        self._keep = timedelta(seconds=keep_s + sweep_s)
        self._most = most
        self._held: dict[str, _Hold] = {}  # by connections of this node
        self._rounds = Rounds("sweep the persistent sessions", self.sweep, every_s=sweep_s)

    async def start(self) -> None:
        """Listen to what other nodes take, and begin to sweep."""
        await self._backplane.listen(TOPIC, self._heard)
        self._rounds.start()

    async def close(self) -> None:
        """Stop sweeping. Idempotent."""
        await self._rounds.close()

    async def take(self, tenant_id: str, user_id: str, key: str, lost: Callable[[], None]) -> Taken:
        """Take the session; make it if it is not there, or has expired.

        ``lost`` is called once, when another has taken it or it was forgotten, unless it was
        released; it must not block. Raises Fault("rate_limited") when the user has too many others.
        """
        async with self._database.write(tenant_id) as session:
            taken = await self._take(session, tenant_id, user_id, key)
        self._hold(taken, lost)
        await self._tell(taken.id, taken.turn)
        return taken

    async def save(self, taken: Taken, channels: Mapping[str, Position]) -> None:
        """Remember these channels. Raises Replaced."""
        async with self._database.write(taken.tenant_id) as session:
            done = await session.exec(
                update(ClientSession)
                .where(col(ClientSession.id) == taken.id, col(ClientSession.turn) == taken.turn)
                .values(channels=_packed(channels), expires_at=now() + self._keep)
                .execution_options(synchronize_session=False)
            )
            written = cast(CursorResult[Any], done).rowcount
        if not written:
            raise Replaced

    def release(self, taken: Taken) -> None:
        """The connection is gone: the session is renewed no more. Idempotent."""
        hold = self._held.get(taken.id)
        if hold is not None and hold.turn == taken.turn:
            del self._held[taken.id]

    async def forget(self, tenant_id: str, user_id: str, key: str) -> None:
        """Delete the session; who holds it is told. One that is not there is fine."""
        async with self._database.write(tenant_id) as session:
            done = await session.exec(
                delete(ClientSession)
                .where(
                    col(ClientSession.tenant_id) == tenant_id,
                    col(ClientSession.user_id) == user_id,
                    col(ClientSession.key) == key,
                )
                .returning(col(ClientSession.id))
                .execution_options(synchronize_session=False)
            )
            session_id = cast("CursorResult[Any]", done).scalar_one_or_none()
        if session_id is not None:
            await self._tell(session_id, _FORGOTTEN)

    async def sweep(self) -> None:
        """Renew what this node's connections hold, and delete what has expired."""
        await self._renew()
        async with self._database.write(EVERY_TENANT) as session:
            await session.exec(
                delete(ClientSession)
                .where(col(ClientSession.expires_at) <= now())
                .execution_options(synchronize_session=False)
            )

    async def _take(self, session: AsyncSession, tenant_id: str, user_id: str, key: str) -> Taken:
        # The user's row is the lock of all that user's sessions, those that are not there too. It
        # may go on being referred to meanwhile.
        locked = select(User.id).where(User.id == user_id).with_for_update(key_share=True)
        await session.exec(locked)
        moment = now()
        rows = (
            await session.exec(
                select(ClientSession).where(
                    ClientSession.user_id == user_id, ClientSession.key == key
                ).with_for_update()
            )
        ).all()  # fmt: skip
        row = rows[0] if rows else None
        if row is not None and row.expires_at > moment:
            channels = _unpacked(row.channels)
            row.turn, row.expires_at = row.turn + 1, moment + self._keep
            return Taken(row.id, tenant_id, user_id, key, row.turn, channels, True)
        if row is not None:
            await session.delete(row)
            await session.flush()
        others = await session.exec(
            select(func.count()).select_from(ClientSession).where(
                ClientSession.user_id == user_id, col(ClientSession.expires_at) > moment
            )
        )  # fmt: skip
        if others.one() >= self._most:
            raise Fault(
                "rate_limited",
                f"{self._most} persistent sessions at most; end one with `session.forget`.",
            )
        made = ClientSession(
            id=new_id("p"),
            tenant_id=tenant_id,
            user_id=user_id,
            key=key,
            expires_at=moment + self._keep,
        )
        session.add(made)
        return Taken(made.id, tenant_id, user_id, key, made.turn, {}, False)

    def _hold(self, taken: Taken, lost: Callable[[], None]) -> None:
        self._had_by(taken.id, taken.turn)
        if taken.id in self._held:
            lost()  # a later turn has begun meanwhile
        else:
            self._held[taken.id] = _Hold(taken.turn, lost)

    def _had_by(self, session_id: str, turn: int) -> None:
        """Somebody has this turn: who had an earlier one here has lost the session."""
        hold = self._held.get(session_id)
        if hold is not None and hold.turn < turn:
            del self._held[session_id]
            hold.lost()

    async def _tell(self, session_id: str, turn: int) -> None:
        self._had_by(session_id, turn)
        try:
            await self._backplane.publish(TOPIC, orjson.dumps([session_id, turn]))
        except Fault as fault:
            # It is in the database: the other finds out by itself, and could not write meanwhile.
            log.warning("could not tell of a session that was taken over", why=fault.reason)

    def _heard(self, message: bytes) -> None:
        session_id, turn = orjson.loads(message)
        self._had_by(session_id, turn)

    async def _renew(self) -> None:
        held = sorted((session_id, hold.turn) for session_id, hold in self._held.items())
        for start in range(0, len(held), _BATCH):
            batch = dict(held[start : start + _BATCH])
            async with self._database.write(EVERY_TENANT) as session:
                # Locked in the order of their ids, on every node, so that none waits for another.
                rows = await session.exec(
                    select(ClientSession)
                    .where(col(ClientSession.id).in_(padded(batch)))
                    .order_by(col(ClientSession.id))
                    .with_for_update()
                )
                turns = {}
                for row in rows.all():
                    turns[row.id] = row.turn
                    if row.turn == batch[row.id]:
                        row.expires_at = now() + self._keep
            for session_id in batch:
                self._had_by(session_id, turns.get(session_id, _FORGOTTEN))


def _packed(channels: Mapping[str, Position]) -> str:
    return orjson.dumps({channel: list(at) for channel, at in channels.items()}).decode()


def _unpacked(text: str) -> dict[str, Position]:
    return {channel: Position(epoch, seq) for channel, (epoch, seq) in orjson.loads(text).items()}
