"""Health: whether the process lives, and whether each part it needs does its work."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.faults import Fault
from hub.operations.call import Services
from hub.operations.dispatcher import Dispatcher, admit
from hub.rbac.decision import decide
from hub.telemetry.logs import log_failure
from hub.telemetry.traces import trace_id_of
from hub.transports.draining import Draining
from hub.transports.rest import Rest, fault_response, json_response


async def _part(check: Awaitable[None]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(2):
            await check
    except Fault as fault:
        return {"status": "down", "why": fault.message}
    except TimeoutError:
        return {"status": "down", "why": "no answer within 2 s"}
    return {"status": "up"}


async def readiness(services: Services, draining: Draining) -> tuple[bool, dict[str, Any]]:
    """Whether this node can serve, and the truth about each part.

    A node that drains is not ready, so that a balancer sends nobody there any more. Without a model
    the hub still serves (conversations, history, resume): the model's state is told, and does not
    take the node out of service.
    """
    database, backplane = await asyncio.gather(
        _part(services.database.ping()), _part(services.backplane.ping())
    )
    ready = database["status"] == backplane["status"] == "up" and not draining.begun
    status = "draining" if draining.begun else "ready" if ready else "unready"
    return ready, {
        "status": status,
        "node": services.node,
        "database": database,
        "backplane": backplane,
        "model": services.catalogue.status(),
    }


def health_routes(
    services: Services, dispatcher: Dispatcher, rest: Rest, draining: Draining
) -> list[Route]:
    """``/health/live``, ``/health/ready`` and, unless it has a port of its own, ``/metrics``."""

    async def live(request: Request) -> Response:
        return json_response(b'{"status":"live"}', 200, {"cache-control": "no-store"})

    async def ready(request: Request) -> Response:
        good, body = await readiness(services, draining)
        return json_response(
            orjson.dumps(body), 200 if good else 503, {"cache-control": "no-store"}
        )

    async def metrics(request: Request) -> Response:
        trace_id = trace_id_of(request.headers.get("traceparent"))
        try:
            call = await rest.call(request, trace_id)
            await admit(dispatcher.find("session.info"), call)
            resource = await services.resources.find("metrics", "hub", call.actor)
            verdict = decide(call.actor, "metrics:read", resource)
            if not verdict.allowed:
                raise Fault(verdict.fault)
        except Fault as fault:
            log_failure(fault, method="metrics", trace_id=trace_id)
            return fault_response(fault, trace_id)
        return metrics_page(services, request)

    routes = [Route("/health/live", live), Route("/health/ready", ready)]
    if services.settings.metrics_port is None:
        routes.append(Route("/metrics", metrics))
    return routes


def metrics_page(services: Services, request: Request) -> Response:
    """The metrics, as Prometheus asks for them."""
    body, kind = services.metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": kind})
