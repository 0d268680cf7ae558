"""What a handler is given besides its parameters: who calls, through what, and the rooms below.

A handler never sees a request or a socket. Where an operation is about the connection itself
(subscriptions, credentials), it speaks to the ``Connection`` interface.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hub.agents.conversations.transcript import Transcript
from hub.agents.orchestrator import Orchestrator
from hub.audit.keeper import Keeper
from hub.backplane.interface import Backplane, Position
from hub.events.delivery import Delivery
from hub.events.fanout import Fanout, Join
from hub.events.live import Reader
from hub.events.outbox import FlushScheduler
from hub.events.presence import Presence
from hub.events.seat import Seat
from hub.identity.access.assignments import Assignments
from hub.identity.access.authority import Authority
from hub.identity.access.credentials import Credentials
from hub.identity.access.groups import Groups
from hub.identity.access.roles import Roles
from hub.identity.access.watches import Watches
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.departures import Departures
from hub.identity.accounts.export import Exports
from hub.identity.accounts.moves import Moves
from hub.identity.accounts.newcomers import Newcomers
from hub.identity.accounts.recovery import Recovery
from hub.identity.accounts.users import Users
from hub.identity.factors.resets import FactorResets
from hub.identity.factors.rules import FactorRules
from hub.identity.factors.second_factors import Factors
from hub.identity.keys.api_keys import ApiKeys
from hub.identity.keys.last_use import KeyUse
from hub.identity.keys.service_accounts import ServiceAccounts
from hub.identity.providers.redirects import Providers
from hub.identity.sessions.client_sessions import ClientSessions
from hub.identity.sessions.sightings import Sightings
from hub.identity.tokens.access_tokens import Claims, Tokens
from hub.inference.catalogue import Catalogue
from hub.limits.quotas import Quotas
from hub.limits.rates import Rates
from hub.operations.resources import Resources
from hub.rbac.actor import Actor
from hub.settings import Settings
from hub.storage.database import Database
from hub.telemetry.metrics import Metrics
from hub.tenancy.members import Members
from hub.tenancy.tenants import Tenants


@dataclass(frozen=True, slots=True)
class Services:
    """The rooms below, as the composition root made them."""

    settings: Settings
    database: Database
    backplane: Backplane
    fanout: Fanout
    outboxes: FlushScheduler
    presence: Presence
    accounts: Accounts
    tenants: Tenants
    members: Members
    recovery: Recovery
    newcomers: Newcomers
    moves: Moves
    users: Users
    departures: Departures
    exports: Exports
    sightings: Sightings
    factors: Factors
    factor_rules: FactorRules
    factor_resets: FactorResets
    providers: Providers
    tokens: Tokens
    credentials: Credentials
    api_keys: ApiKeys
    key_use: KeyUse
    service_accounts: ServiceAccounts
    authority: Authority
    watches: Watches
    roles: Roles
    groups: Groups
    assignments: Assignments
    client_sessions: ClientSessions
    resources: Resources
    catalogue: Catalogue
    quotas: Quotas
    orchestrator: Orchestrator
    transcript: Transcript
    metrics: Metrics
    rates: Rates
    audit: Keeper
    node: str


class Persistent(Protocol):
    """The persistent session of a connection. Its methods raise Fault backend_unavailable, and
    conflict when another connection has the session now.
    """

    @property
    def channels(self) -> Mapping[str, Position]:
        """The channels that it remembers, and where they were acknowledged."""

    async def remember(self, channel: str, at: Position) -> None:
        """Remember a channel that is followed. Raises Fault rate_limited."""

    async def leave(self, channel: str, *, remember: bool) -> None:
        """The client follows a channel no more; whether to remember it all the same."""

    def knows(self, channel: str) -> bool:
        """Whether a position in the channel can be acknowledged."""

    async def acknowledge(self, positions: Mapping[str, Position]) -> None:
        """Remember positions, of channels that it knows."""


class Connection(Protocol):
    """The caller's open connection, where there is one."""

    id: str

    @property
    def persistent(self) -> Persistent | None:
        """Its persistent session, if it has named one."""

    @property
    def reader(self) -> Reader:
        """Who its subscriptions deliver to."""

    async def authenticate(self, token: str, session_key: str | None = None) -> Mapping[str, Any]:
        """Take these credentials as the connection's own; what ``session.ready`` says.

        Raises Fault unauthenticated, token_expired, permission_denied (another user's), and for a
        ``session_key`` conflict, rate_limited.
        """

    @property
    def deliver(self) -> Callable[[Delivery], None]:
        """Take an event of others' presence."""

    def subscribed(self, channel: str, join: Join, seat: Seat | None) -> None:
        """Note a subscription, with the seat that it has where it is one with presence. Raises
        Fault conflict, rate_limited.
        """

    def seat(self, channel: str) -> Seat | None:
        """The seat of a subscription that has one."""

    async def follow(self, channel: str, join: Join) -> None:
        """Let a noted subscription's events flow."""

    def unsubscribe(self, channel: str) -> bool:
        """End a subscription; whether there was one."""

    def detach(self, session_key: str) -> None:
        """Go on without the persistent session of this name."""


AfterReply = Callable[[], Coroutine[Any, Any, None]]
"""What is done once a reply is on its way."""


@dataclass(slots=True)
class Call:
    """One request being answered."""

    services: Services
    actor: Actor
    claims: Claims | None
    connection: Connection | None
    transport: str
    trace_id: str
    address: str | None = None
    device: str | None = None
    idempotency_key: str | None = None
    refresh_cookie: str | None = None
    """The refresh token that came as a cookie, over HTTP."""
    set_refresh_cookie: str | None = None
    """The one to be set; empty to take it away."""
    after: list[AfterReply] = field(default_factory=list)

    def after_reply(self, step: AfterReply) -> None:
        """Do this once the reply is on its way (a subscription's events follow its reply)."""
        self.after.append(step)


ANONYMOUS = Actor("", "", "", (), frozenset())
"""Who has shown no credentials."""
