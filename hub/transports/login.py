"""Who is on a connection: its credentials, and what they allow from moment to moment."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from hub.faults import Fault
from hub.identity.access.authority import NoStanding
from hub.identity.access.standing import Key
from hub.identity.tokens.access_tokens import Claims
from hub.operations.call import Call, Services
from hub.operations.dispatcher import Dispatcher, authorise, validate
from hub.protocol.limits import (
    AUTHENTICATE_DEADLINE_S,
    CLIENT_LIMITS,
    EXPIRED_GRACE_S,
    EXPIRING_NOTICE_S,
    HEARTBEAT_S,
    SUBPROTOCOL,
)
from hub.protocol.session import Event
from hub.rbac.actor import Actor
from hub.transports.persistent import Host as PersistentHost
from hub.transports.persistent import PersistentSession
from hub.transports.subscriptions import Subscriptions


class Host(PersistentHost, Protocol):
    """The connection that somebody is on."""

    id: str
    address: str | None
    subscriptions: Subscriptions
    persistent: PersistentSession | None

    @property
    def open(self) -> bool:
        """Whether it is not closed."""

    @property
    def opening(self) -> bool:
        """Whether nobody has shown valid credentials yet."""

    def on(self, event: Event) -> None:
        """Something happened to the session."""

    def seat_user(self, user_id: str) -> None:
        """Somebody shows valid credentials; close if they have too many connections already."""

    def notice(self, method: str, params: Mapping[str, Any]) -> None:
        """Tell the client."""

    def call(self, trace_id: str | None) -> Call:
        """What the dispatcher is given."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it for as long as the connection is open."""


class Login:
    """The credentials of one connection, from the first token to the last."""

    __slots__ = (
        "_dispatcher", "_host", "_services", "_timers", "_watched", "claims",
    )  # fmt: skip

    def __init__(
        self, host: Host, services: Services, dispatcher: Dispatcher, opened: float
    ) -> None:
        """``opened``: when the peer began to open the connection, by the loop's clock."""
        self.claims: Claims | None = None
        self._host = host
        self._services = services
        self._dispatcher = dispatcher
        self._watched: Key | None = None
        self._timers: list[asyncio.TimerHandle] = []
        left = opened + AUTHENTICATE_DEADLINE_S - asyncio.get_running_loop().time()
        self._later(left, lambda: host.on(Event.AUTH_DEADLINE))

    async def authenticate(self, token: str, session_key: str | None = None) -> Mapping[str, Any]:
        """Take these credentials, and the persistent session of this name; what ``session.ready``
        says. Raises Fault.
        """
        host = self._host
        claims = await self._services.credentials.read(token, host.address)
        actor = await self._services.authority.actor(claims)
        persistent = None
        if session_key is not None and not self._has(session_key):
            persistent = await self._persistent(actor, session_key)
        if self.claims is not None and (claims.user_id, claims.tenant_id) != (
            self.claims.user_id,
            self.claims.tenant_id,
        ):
            raise Fault("permission_denied", "A connection stays with its user and tenant.")
        first = host.opening
        if first:
            host.seat_user(claims.user_id)
        host.on(Event.AUTHENTICATED if first else Event.REFRESHED)
        if not host.open:
            if persistent is not None:
                persistent.close()
            raise Fault("unauthenticated")
        self.claims = claims
        self.stop()
        self._watched = claims.key
        self._services.watches.add(claims.key, self, actor)
        if claims.expires_at is not None:
            left = claims.expires_at - time.time()
            self._later(left - EXPIRING_NOTICE_S, self._expiring)
            if claims.holder is None:  # the end of an API key is that of a standing
                self._later(left, self._expired)
        host.persistent = persistent or host.persistent
        ready = self._ready(claims, actor)
        if first:
            host.notice("session.ready", ready)
            if persistent is not None:
                host.spawn(persistent.resume())
        else:
            await self._recheck(actor)
        return ready

    def _has(self, session_key: str) -> bool:
        persistent = self._host.persistent
        return persistent is not None and persistent.key == session_key

    async def _persistent(self, actor: Actor, session_key: str) -> PersistentSession:
        """Take the persistent session of this name. Raises Fault conflict, rate_limited."""
        host = self._host
        late = "The first authentication of a connection names its persistent session."
        if not host.opening:
            raise Fault("conflict", late)
        sessions = self._services.client_sessions
        taken = await sessions.take(
            actor.tenant_id, actor.user_id, session_key, lambda: host.on(Event.REPLACED)
        )
        if not host.opening:  # it closed, or another authentication was faster
            sessions.release(taken)
            raise Fault("conflict", late)
        self._services.metrics.sessions_begun.labels("resumed" if taken.resumed else "new").inc()
        return PersistentSession(host, sessions, self._dispatcher, taken)

    def _ready(self, claims: Claims, actor: Actor) -> dict[str, Any]:
        persistent = self._host.persistent
        return {
            "protocol": SUBPROTOCOL,
            "connection_id": self._host.id,
            "node": self._services.node,
            "user": actor.user_id,
            "tenant": actor.tenant_id,
            "roles": list(actor.roles),
            **({} if claims.end is None else {"expires_at": claims.end.isoformat()}),
            "heartbeat_s": HEARTBEAT_S,
            "limits": CLIENT_LIMITS,
            **(persistent.ready() if persistent is not None else {"resumed": False}),
        }

    def refused(self, fault: Fault) -> None:
        """An authentication failed: close, unless it can be tried again with other parameters."""
        host = self._host
        if fault.reason == "unauthenticated":
            host.on(Event.AUTH_FAILED)
        elif host.opening and fault.reason == "rate_limited":
            # Requests of its address, which passes, or persistent sessions of its user.
            passes = "retry_after_ms" in fault.details
            host.on(Event.RATE_LIMITED if passes else Event.TOO_MANY)
        elif host.opening and fault.reason != "invalid_params":
            expired = fault.reason == "token_expired"
            host.on(Event.TOKEN_EXPIRED if expired else Event.FAILED)

    # --- time passes ---

    def stop(self) -> None:
        """Cancel what is due later. Idempotent."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._watched is not None:
            self._services.watches.remove(self._watched, self)
            self._watched = None

    def _later(self, delay_s: float, step: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(0.0, delay_s), step))

    def _expiring(self) -> None:
        if self.claims is not None and self.claims.end is not None:
            self._host.notice("session.expiring", {"expires_at": self.claims.end.isoformat()})

    def _expired(self) -> None:
        host = self._host
        host.on(Event.TOKEN_EXPIRED)
        if host.open:
            self._later(EXPIRED_GRACE_S, lambda: host.on(Event.GRACE_OVER))

    # --- permissions change ---

    def standing(self, found: Actor | Fault) -> None:
        """Whoever is on the connection may now do other things than before."""
        host = self._host
        if not host.open:
            return
        if isinstance(found, NoStanding):
            self._services.metrics.revocations.labels("connection", found.why).inc()
            host.notice("session.revoked", {"reason": found.why})
            host.on(Event.REVOKED)
        elif isinstance(found, Fault):
            # Unsure means no: nothing more is delivered; the client may subscribe again.
            for channel in host.subscriptions:
                self.end(channel, found.reason)
        elif len(host.subscriptions):
            host.spawn(self._recheck(found))

    def shared(self, channel: str) -> None:
        """What a channel is of may be shared with others than before."""
        if channel in self._host.subscriptions:
            self._host.spawn(self.check_now(channel))

    async def _recheck(self, actor: Actor) -> None:
        """End what this actor may not follow."""
        for channel in self._host.subscriptions:
            await self._check(channel, actor)

    async def check_now(self, channel: str) -> None:
        """End the subscription unless it is allowed at this moment."""
        assert self.claims is not None
        try:
            actor = await self._services.authority.actor(self.claims)
        except Fault as fault:
            self.end(channel, fault.reason)
        else:
            await self._check(channel, actor)

    async def _check(self, channel: str, actor: Actor) -> None:
        subscribe = self._dispatcher.find("channel.subscribe")
        call = self._host.call(None)
        call.actor = actor
        try:
            await authorise(subscribe, validate(subscribe, {"channel": channel}), call)
        except Fault as fault:
            self.end(channel, fault.reason)

    def end(self, channel: str, reason: str) -> None:
        """End a subscription that is not allowed any more. One that is not there is fine."""
        if self._host.subscriptions.end(channel, reason):
            self._services.metrics.revocations.labels("subscription", reason).inc()
