"""The composition root: makes the rooms from the settings, and the application from the rooms."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from hub.agents.answers import Answers
from hub.agents.conversations.transcript import Transcript
from hub.agents.erasure import Erasures
from hub.agents.orchestrator import Orchestrator
from hub.agents.worker import Worker
from hub.audit.keeper import Keeper
from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.backplane.pulse import Pulse
from hub.events.fanout import Fanout
from hub.events.outbox import FlushScheduler
from hub.events.presence import Presence
from hub.identity.access.assignments import Assignments
from hub.identity.access.authority import Authority
from hub.identity.access.compiled_roles import CompiledRoles
from hub.identity.access.credentials import Credentials
from hub.identity.access.groups import Groups
from hub.identity.access.roles import Roles
from hub.identity.access.shared_roles import SharedRoles
from hub.identity.access.watches import Watches
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.delivery import open_delivery
from hub.identity.accounts.departures import Departures
from hub.identity.accounts.export import Exports
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.moves import Moves
from hub.identity.accounts.newcomers import Newcomers
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.recovery import Recovery
from hub.identity.accounts.users import Users
from hub.identity.factors.resets import FactorResets
from hub.identity.factors.rules import FactorRules
from hub.identity.factors.second_factors import Factors
from hub.identity.keys.api_keys import ApiKeys
from hub.identity.keys.last_use import KeyUse
from hub.identity.keys.service_accounts import ServiceAccounts
from hub.identity.providers.provisioning import Provisioning
from hub.identity.providers.redirects import Providers
from hub.identity.sessions.client_sessions import ClientSessions
from hub.identity.sessions.sightings import Sightings
from hub.identity.sessions.sweeper import Sweeper
from hub.identity.sessions.throttle import Throttle
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import open_ring
from hub.identity.tokens.seal import Seal, seal_of
from hub.ids import new_id
from hub.inference.catalogue import Catalogue
from hub.limits.quotas import Quotas
from hub.limits.rates import Rates
from hub.operations.call import Services
from hub.operations.dispatcher import Dispatcher
from hub.operations.resources import Resources
from hub.operations.run_permits import RunPermits
from hub.operations.table import OPERATIONS
from hub.protocol.limits import MAX_SESSIONS, SESSION_KEEP_S
from hub.settings import LOOPBACK, BadSettings, Settings
from hub.settings.production import check_production, for_real
from hub.storage import walls
from hub.storage.database import Database
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics
from hub.tenancy.members import Members
from hub.tenancy.purge import Purge
from hub.tenancy.tenants import Tenants
from hub.transports.admission import Admission
from hub.transports.documents import document_routes
from hub.transports.draining import Draining
from hub.transports.health import health_routes
from hub.transports.oidc import SignIn
from hub.transports.request_ids import RequestIds
from hub.transports.rest import Rest, http_exception, unexpected
from hub.transports.seats import House
from hub.transports.sse import EventStreams
from hub.transports.web import web_routes
from hub.transports.websocket import SocketEndpoint
from hub.transports.well_known import well_known_routes

EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104
"""The addresses of all interfaces; from here they are reached at loopback."""


@dataclass(frozen=True)
class Hub:
    """A running node: its rooms, and the ASGI application that offers them."""

    services: Services
    application: Starlette
    socket: SocketEndpoint
    streams: EventStreams
    draining: Draining

    def drain(self) -> None:
        """Send the clients elsewhere, and take no new runs; the node is about to end."""
        self.draining.begin()

    async def drained(self) -> None:
        """Return when clients have left and runs have ended; within the drain window, anyhow."""
        await self.draining.over()


@asynccontextmanager
async def running(
    settings: Settings, *, worker: bool = True, backplane: Backplane | None = None
) -> AsyncIterator[Hub]:
    """A node with everything started, and ended in the reverse order. ``backplane``: by default
    that of the settings.

    Makes the data directory, the signing key and the database's tables if they are not there.
    Raises Fault("backend_unavailable") when the database or the backplane cannot be reached, and
    BadSettings when a setting cannot be.
    """
    async with AsyncExitStack() as stack:
        services = await _services(settings, stack, worker=worker, backplane=backplane)
        driver = None
        if worker:
            driver = Worker(
                orchestrator=services.orchestrator,
                transcript=services.transcript,
                catalogue=services.catalogue,
                backplane=services.backplane,
                metrics=services.metrics,
                answers=Answers(services.backplane, services.metrics, settings.answer_cache_s),
                permits=RunPermits(services.authority, services.watches, services.resources),
                concurrency=settings.run_concurrency,
            )
            await driver.start()
            stack.push_async_callback(driver.close)
        yield _hub(services, driver)


class _Room(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...


_R = TypeVar("_R", bound=_Room)


async def _running(stack: AsyncExitStack, room: _R) -> _R:
    """Started, and closed with the stack."""
    await room.start()
    stack.push_async_callback(room.close)
    return room


async def _services(
    settings: Settings, stack: AsyncExitStack, *, worker: bool, backplane: Backplane | None
) -> Services:
    check_production(settings)
    keys = open_ring(settings)
    delivery = open_delivery(settings)
    node = new_id("n")
    metrics = Metrics()
    loop = asyncio.get_running_loop()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    database = await _running(stack, Database(settings.database))
    await _walled(database, settings)
    if backplane is None:
        backplane = open_backplane(settings.redis_url, node, metrics)
    stack.push_async_callback(backplane.close)  # also if it cannot be reached
    await backplane.start()
    passwords = Passwords(settings.bcrypt_cost)
    stack.callback(passwords.close)
    tokens = Tokens(keys, settings.access_token_minutes)
    seal = seal_of(settings)
    authority = await _authority(database, backplane, seal, metrics, stack)
    resources = Resources(
        database,
        backplane,
        partial(authority.found, "conversation"),
        metrics.caches["resources"],
    )
    await resources.start()
    stack.callback(resources.close)
    authority.on_change(resources.changed)  # before those who ask it again at a change
    watches = await _running(stack, Watches(authority))
    key_use = KeyUse(database)
    stack.push_async_callback(key_use.close)
    client_sessions = await _running(
        stack, ClientSessions(database, backplane, keep_s=SESSION_KEEP_S, most=MAX_SESSIONS)
    )
    catalogue = await _running(
        stack,
        Catalogue(settings, backplane, lookups=metrics.caches["models"], drives=worker),
    )
    quotas = Quotas(database, backplane, settings, metrics)
    await quotas.start()
    outboxes = FlushScheduler(metrics.joined.labels("outbox").inc)
    rates = await _running(stack, Rates(backplane, settings, metrics))
    fanout = Fanout(backplane, metrics, outboxes)
    stack.push_async_callback(fanout.close)
    audit = await _running(stack, Keeper(database, backplane, metrics, settings, fanout.followed))
    looking = resources.looking(fanout.followed)
    looking.start()
    stack.push_async_callback(looking.close)
    await _running(stack, Pulse(backplane, metrics, node))
    await _running(stack, Purge(database, backplane))
    presence = Presence(backplane, metrics, node, settings.presence_ttl_s)
    stack.push_async_callback(presence.close)
    throttle = Throttle(backplane)
    mailing = Mailing(database, delivery, throttle, metrics, settings.url)
    accounts = Accounts(
        database,
        passwords,
        tokens,
        settings,
        changed=authority.changed,
        throttle=throttle,
        mailing=mailing,
        denied=audit.denials.note,
    )
    orchestrator = Orchestrator(database, backplane, quotas)
    erasures = Erasures(database, backplane, orchestrator, resources.gone)
    sightings = Sightings(database)
    for keeper in (mailing, erasures, sightings, Sweeper(database, backplane)):
        await _running(stack, keeper)
    return Services(
        settings=settings,
        database=database,
        backplane=backplane,
        fanout=fanout,
        outboxes=outboxes,
        presence=presence,
        accounts=accounts,
        factors=Factors(
            database,
            passwords,
            seal,
            backplane,
            accounts.login_sessions,
            changed=authority.changed,
        ),
        factor_rules=FactorRules(database, changed=authority.changed),
        factor_resets=FactorResets(database, throttle, authority.changed),
        providers=_providers(
            settings,
            seal,
            Provisioning(database, accounts.login_sessions, changed=authority.changed),
            stack,
        ),
        recovery=Recovery(database, passwords, throttle, mailing, authority.changed),
        moves=Moves(database, throttle, mailing),
        newcomers=Newcomers(database, throttle, mailing, verified=bool(settings.require_verified)),
        users=Users(database, authority.changed),
        departures=Departures(database, authority.changed, erasures.wake),
        exports=Exports(database),
        sightings=sightings,
        tenants=Tenants(
            database,
            grace_days=settings.tenant_grace_days,
            least_trail_days=settings.audit_retention_least_days,
            changed=authority.changed,
        ),
        members=Members(database, changed=authority.changed),
        tokens=tokens,
        credentials=Credentials(tokens, authority, rates.spend_address),
        api_keys=ApiKeys(database, authority.changed),
        key_use=key_use,
        service_accounts=ServiceAccounts(database, authority.changed),
        authority=authority,
        watches=watches,
        roles=Roles(database, changed=authority.changed),
        groups=Groups(database, changed=authority.changed),
        assignments=Assignments(database, changed=authority.changed),
        client_sessions=client_sessions,
        resources=resources,
        catalogue=catalogue,
        quotas=quotas,
        orchestrator=orchestrator,
        transcript=Transcript(database, backplane),
        metrics=metrics,
        rates=rates,
        audit=audit,
        node=node,
    )


async def _authority(
    database: Database, backplane: Backplane, seal: Seal, metrics: Metrics, stack: AsyncExitStack
) -> Authority:
    """Started, with what nodes remember of roles."""
    shared = SharedRoles(backplane, seal, metrics.caches["roles_shared"])
    stack.push_async_callback(shared.close)
    roles = CompiledRoles(database, shared, metrics.caches["roles"])
    authority = Authority(database, backplane, roles=roles, lookups=metrics.caches["permissions"])
    await authority.start()
    return authority


async def _walled(database: Database, settings: Settings) -> None:
    """Bring the database up to date, behind its own walls. Raises BadSettings if they do not hold
    and the hub is for real.
    """
    real = settings.environment == "production"
    # Before there are tables that another role would not own.
    why = await database.unwalled(migrated=False) if real else None
    if why is None:
        await database.migrate()
        why = await database.unwalled()
    if why is None:
        return
    said = f"PostgreSQL's own walls between tenants do not hold: the hub's role {why}"
    if real:
        raise BadSettings(for_real(f"HUB_DATABASE_URL: {said}. {walls.ROLE}"))
    log.warning(said)


def _providers(
    settings: Settings, seal: Seal, provisioning: Provisioning, stack: AsyncExitStack
) -> Providers:
    providers = Providers(settings.providers, settings.url, seal, provisioning)
    stack.push_async_callback(providers.close)
    return providers


def _hub(services: Services, worker: Worker | None) -> Hub:
    dispatcher = Dispatcher(OPERATIONS)
    rest = Rest(services, dispatcher)
    house = House(services.settings)
    streams = EventStreams(services, dispatcher, rest, house)
    socket = SocketEndpoint(services, dispatcher, _origins(services.settings), house)
    draining = Draining(
        services.settings.drain_s,
        (socket.connections, streams),
        () if worker is None else (worker.drained,),
    )
    routes: list[BaseRoute] = [
        WebSocketRoute("/ws", socket),
        Route("/ws", socket),
        streams.route(),
        *SignIn(services).routes(),
        *rest.routes(),
        *health_routes(services, dispatcher, rest, draining),
        *well_known_routes(services.tokens.keys),
        *document_routes(),
        *web_routes(),
    ]
    application = Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestIds),
            Middleware(Admission, settings=services.settings),
        ],
        exception_handlers={HTTPException: http_exception, Exception: unexpected},
    )
    # A path with a slash too many is none of ours, and answers in our form like any other.
    application.router.redirect_slashes = False
    return Hub(services, application, socket, streams, draining)


def _origins(settings: Settings) -> set[str]:
    """The origins of browsers that may connect: the hub's own, and the operator's list."""
    # Never the Host header instead: a rebound name would be its own.
    local = settings.host in (*LOOPBACK, *EVERYWHERE)
    hosts = set(LOOPBACK) if local else {settings.host}
    own = {f"http://{f'[{host}]' if ':' in host else host}:{settings.port}" for host in hosts}
    return own | set(settings.allowed_origins)
