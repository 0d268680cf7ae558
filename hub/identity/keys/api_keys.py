"""API keys: made, listed, changed, rotated and ended. What they are good for is a standing's."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.holdings import hand_of, hand_there, held_by
from hub.identity.access.ways_in import was_ended
from hub.identity.tokens.api_key_text import make
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.inheritance import Definitions
from hub.rbac.permissions import ANY, holds
from hub.rbac.ranks import Hand, why_not_touch
from hub.rbac.scopes import completed, default_scopes, narrowed
from hub.storage.database import Database
from hub.storage.tables import ApiKey, User, now

MOST: Final = 50
"""Living keys of one user in a tenant."""
OVERLAP_S: Final = 86_400
"""How long a secret stays good that was rotated away, unless who rotates it says otherwise."""
MOST_OVERLAP_S: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a key is to be. ``scopes`` None: what its user and its maker both may, but for making
    keys and service accounts. ``expires_at`` None: never.
    """

    name: str
    scopes: Collection[str] | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be another; ``forever`` takes the end away."""

    name: str | None = None
    scopes: Collection[str] | None = None
    expires_at: datetime | None = None
    forever: bool = False


class ApiKeys:
    """The keys. ``changed("session", id)`` is told of what must act at once.

    Who may come to which key is for the caller to decide; that nobody makes a key that may more
    than they do themselves is decided here, in the transaction that makes it. ``by`` is None for
    the operator at the machine.
    """

    def __init__(
        self,
        database: Database,
        changed: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._changed = changed

    async def create(
        self, by: Actor | None, user_id: str, tenant_id: str, wanted: Wanted
    ) -> tuple[ApiKey, str]:
        """A new key for the user, and its text, which nothing can tell again.

        Raises Fault: "invalid_params" for scopes that are no permissions and an end in the past;
        "permission_denied" for scopes that ``by`` or the user does not hold; "conflict" at the
        limit; "not_found" for a user who may not come in.
        """
        asked = _completed(wanted.scopes)
        _check_end(wanted.expires_at)
        key_id = new_id("ak")
        text, holder = make(key_id)
        async with self._database.write(tenant_id) as session:
            hand, definitions = await _begun(session, tenant_id, by, user_id, "apikey:create")
            owner = await _owner(session, tenant_id, user_id, definitions)
            scopes = _default(hand, owner) if asked is None else asked
            _check_held(scopes, hand, owner)
            row = ApiKey(
                id=key_id,
                tenant_id=tenant_id,
                user_id=user_id,
                created_by=by.user_id if by else None,
                name=wanted.name,
                scopes=_written(scopes),
                secret_hash=holder.digest,
                expires_at=wanted.expires_at,
            )
            # The user's row is the lock of all that user's keys, those that are not there too.
            locked = select(User.id).where(User.id == user_id).with_for_update(key_share=True)
            if (await session.exec(locked)).first() is None:
                raise Fault("not_found")
            if by is not None and await was_ended(session, by.session_id):
                # By what has held that row until now, and ended all keys that it saw.
                raise Fault("unauthenticated")
            if await self._living(session, user_id) >= MOST:
                raise Fault("conflict", f"{MOST} keys at most; revoke one that is not needed.")
            session.add(row)
            await session.flush()
            await record(
                session,
                tenant_id,
                "apikey.create",
                resource=("apikey", key_id),
                details={"name": wanted.name, "user": user_id, "scopes": sorted(scopes)},
            )
        return row, text

    async def page(
        self, tenant_id: str, user_id: str | None, after: str | None, limit: int
    ) -> list[ApiKey]:
        """Keys that are not revoked, the newest first: the user's, or all of the tenant."""
        statement = (
            select(ApiKey)
            .where(col(ApiKey.revoked_at).is_(None))
            .order_by(col(ApiKey.id).desc())
            .limit(limit)
        )
        if user_id is not None:
            statement = statement.where(ApiKey.user_id == user_id)
        if after is not None:
            statement = statement.where(ApiKey.id < after)
        async with self._database.read(tenant_id) as session:
            return list((await session.exec(statement)).all())

    async def get(self, tenant_id: str, key_id: str) -> ApiKey:
        """A key, revoked or not. Raises Fault("not_found")."""
        async with self._database.read(tenant_id) as session:
            row = await session.get(ApiKey, key_id)
        if row is None:
            raise Fault("not_found")
        return row

    async def update(
        self, by: Actor | None, tenant_id: str, key_id: str, changes: Changes
    ) -> ApiKey:
        """Change a key. Raises Fault as ``create`` does; "conflict" for one that is revoked."""
        there = await self.get(tenant_id, key_id)
        scopes = _completed(changes.scopes)
        _check_end(changes.expires_at)
        details: dict[str, str | list[str] | None] = {}
        async with self._database.write(tenant_id) as session:
            permission = "apikey:write"
            hand, definitions = await _taken_up(session, tenant_id, by, there.user_id, permission)
            if scopes is not None:
                owner = await _owner(session, tenant_id, there.user_id, definitions)
                _check_held(scopes, hand, owner)
            row = await _locked(session, key_id)
            if changes.name is not None:
                row.name = details["name"] = changes.name
            if scopes is not None:
                row.scopes = _written(scopes)
                details["scopes"] = sorted(scopes)
            if changes.expires_at is not None or changes.forever:
                row.expires_at = changes.expires_at
                details["expires_at"] = row.expires_at.isoformat() if row.expires_at else None
            row.updated_at = now()
            session.add(row)
            await record(
                session, tenant_id, "apikey.update", resource=("apikey", key_id), details=details
            )
        await self._announce(key_id)
        return row

    async def rotate(
        self, by: Actor | None, tenant_id: str, key_id: str, overlap_s: int = OVERLAP_S
    ) -> tuple[ApiKey, str]:
        """A new secret for a key, and its text. The one before is good for ``overlap_s`` more, and
        any older one no more.

        Raises Fault: "permission_denied" for another person's key (whoever has its secret is that
        person), and for one that may more than ``by``; "conflict" for one that is over.
        """
        there = await self.get(tenant_id, key_id)
        text, holder = make(key_id)
        async with self._database.write(tenant_id) as session:
            hand, definitions = await _begun(session, tenant_id, by, there.user_id, "apikey:create")
            user = await session.get(User, there.user_id)
            others = by is not None and there.user_id != by.user_id
            if others and (user is None or user.kind != "service"):
                raise Fault("permission_denied", "A key is rotated by the person who owns it.")
            owner = await _owner(session, tenant_id, there.user_id, definitions)
            row = await _locked(session, key_id)
            _check_held(narrowed(owner.permissions, row.scopes.split()), hand, owner)
            moment = now()
            if row.expires_at is not None and row.expires_at <= moment:
                raise Fault("conflict", "The key has expired; give it another end first.")
            row.previous_hash = row.secret_hash if overlap_s else None
            row.previous_until = moment + timedelta(seconds=overlap_s) if overlap_s else None
            row.secret_hash = holder.digest
            row.rotated_at = row.updated_at = moment
            session.add(row)
            await record(
                session,
                tenant_id,
                "apikey.rotate",
                resource=("apikey", key_id),
                details={"overlap_s": overlap_s},
            )
        await self._announce(key_id)
        return row, text

    async def revoke(self, by: Actor | None, tenant_id: str, key_id: str) -> None:
        """End a key, its sockets and its runs. Idempotent. Raises Fault: "not_found", and
        "permission_denied" where whose key it is ranks above ``by``.
        """
        there = await self.get(tenant_id, key_id)
        async with self._database.write(tenant_id) as session:
            await _taken_up(session, tenant_id, by, there.user_id, "apikey:revoke")
            row = await session.get(ApiKey, key_id, with_for_update=True)
            if row is None:
                raise Fault("not_found")
            if row.revoked_at is None:
                row.revoked_at = row.updated_at = now()
                session.add(row)
                await record(
                    session,
                    tenant_id,
                    "apikey.revoke",
                    resource=("apikey", key_id),
                    details={"name": row.name, "user": row.user_id},
                )
        await self._announce(key_id)

    async def _living(self, session: AsyncSession, user_id: str) -> int:
        found = await session.exec(
            select(func.count())
            .select_from(ApiKey)
            .where(
                ApiKey.user_id == user_id,
                col(ApiKey.revoked_at).is_(None),
                or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > now()),
            )
        )
        return found.one()

    async def _announce(self, key_id: str) -> None:
        if self._changed is None:
            return
        try:
            await self._changed("session", key_id)
        except Fault:
            # It is in the database, and every node looks there within seconds anyway.
            return


async def _locked(session: AsyncSession, key_id: str) -> ApiKey:
    row = await session.get(ApiKey, key_id, with_for_update=True)
    if row is None:
        raise Fault("not_found")
    if row.revoked_at is not None:
        raise Fault("conflict", "The key was revoked; make a new one.")
    return row


async def _begun(
    session: AsyncSession, tenant_id: str, by: Actor | None, user_id: str, permission: str
) -> tuple[Hand, Definitions]:
    """Begin what ``by`` does by this permission about a key of a user's: see ``hand_of``."""
    if by is not None and (by.user_id != user_id or not holds(by.permissions, permission)):
        permission += ANY
    return await hand_of(session, tenant_id, by, permission)


async def _taken_up(
    session: AsyncSession, tenant_id: str, by: Actor | None, user_id: str, permission: str
) -> tuple[Hand, Definitions]:
    """Begin a change of a key that is there, as ``_begun`` does. Raises Fault("permission_denied")
    where whose key it is ranks above ``by``.
    """
    hand, definitions = await _begun(session, tenant_id, by, user_id, permission)
    held = await held_by(session, tenant_id, user_id)
    if (why := why_not_touch(hand, held.role_ids, definitions)) is not None:
        raise Fault("permission_denied", why)
    return hand, definitions


async def _owner(
    session: AsyncSession, tenant_id: str, user_id: str, definitions: Definitions
) -> Hand:
    """Whose key it is, as of this moment. Raises Fault("not_found") for who may not come in."""
    owner = await hand_there(session, tenant_id, user_id, definitions)
    if owner is None:
        raise Fault("not_found", "Whose key it is to be may not come in.")
    return owner


def _default(hand: Hand, owner: Hand) -> frozenset[str]:
    scopes = default_scopes(owner.permissions)
    if hand.user_id is not None:
        scopes = narrowed(hand.permissions, scopes)
    return scopes if hand.within is None else narrowed(hand.within, scopes)


def _completed(wanted: Collection[str] | None) -> frozenset[str] | None:
    if wanted is None:
        return None
    try:
        return completed(wanted)
    except ValueError as error:
        raise Fault("invalid_params", f"scopes: {error}") from None


def _check_held(scopes: Collection[str], hand: Hand, owner: Hand) -> None:
    if beyond := sorted(scope for scope in scopes if not hand.holds(scope)):
        raise Fault(
            "permission_denied", f"A key may do no more than who makes it: you may not {beyond[0]}."
        )
    if beyond := sorted(scope for scope in scopes if not owner.holds(scope)):
        raise Fault("permission_denied", f"scopes: whose key it is may not {beyond[0]}.")


def _check_end(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= now():
        raise Fault("invalid_params", "expires_at: this has passed.")


def _written(scopes: Collection[str]) -> str:
    return " ".join(sorted(scopes))
