"""The two addresses of a sign-in through an identity provider, which browsers go to.

``start`` sends them to the provider, ``callback`` takes them back, and both end with a redirect:
never with a token in an address, but with a one-time code in a fragment, as a login link has it.
"""

import hashlib
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hub.audit.origin import Origin, acting
from hub.audit.refusal import Refusal
from hub.faults import Fault
from hub.identity.access.refusal import NotAdmitted
from hub.identity.providers.redirects import LIFE_S, PATH
from hub.operations.call import Services
from hub.telemetry.logs import log_failure
from hub.telemetry.traces import trace_id_of, traced
from hub.transports.rest import fault_response

_HEADERS: Final = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
_LONGEST: Final = 4_096
COST: Final = 20.0
"""What each takes of the budget of the address, as a sign-in does."""

_REFUSED: Final = frozenset({"unauthenticated", "permission_denied", "conflict", "rate_limited"})
"""Why somebody does not come in, as the audit trail tells it; others are no refusals."""


class SignIn:
    """Starlette endpoints over ``hub.identity.providers.redirects``."""

    def __init__(self, services: Services) -> None:
        self._providers = services.providers
        self._metrics = services.metrics
        self._rates = services.rates
        self._denials = services.audit.denials
        self._secure = services.settings.url.startswith("https://")

    def routes(self) -> list[Route]:
        return [
            Route(f"{PATH}/{{provider}}/start", self._start),
            Route(f"{PATH}/{{provider}}/callback", self._callback),
        ]

    async def _start(self, request: Request) -> Response:
        name, tenant = request.path_params["provider"], request.query_params.get("tenant")
        trace_id = trace_id_of(request.headers.get("traceparent"))
        with traced(trace_id, method="provider.start"):
            try:
                await self._rates.spend_address(COST, _address(request))
                begun = await self._providers.begin(name, tenant and tenant[:200])
            except Fault as fault:
                log_failure(fault)
                return _problem(request, fault, trace_id)
        response = RedirectResponse(begun.url, 303, _HEADERS)
        response.set_cookie(
            _cookie(begun.state),
            begun.kept,
            max_age=LIFE_S,
            path=PATH,
            secure=self._secure,
            httponly=True,
            samesite="lax",  # it comes with the way back, which another site begins
        )
        return response

    async def _callback(self, request: Request) -> Response:
        answer = {name: value[:_LONGEST] for name, value in request.query_params.items()}
        cookie = _cookie(answer.get("state", ""))
        trace_id = trace_id_of(request.headers.get("traceparent"))
        address = _address(request)
        origin = Origin(transport="rest", address=address, trace_id=trace_id)
        with traced(trace_id, method="provider.callback"), acting(origin):
            try:
                await self._rates.spend_address(COST, address)
                code = await self._providers.finish(
                    request.path_params["provider"], answer, request.cookies.get(cookie)
                )
                response: Response = RedirectResponse(f"/#code={quote(code)}", 303, _HEADERS)
                self._metrics.logins.labels("provider").inc()
            except Fault as fault:
                log_failure(fault)
                response = _problem(request, fault, trace_id)
                self._metrics.logins.labels("refused").inc()
                self._note(request.path_params["provider"], fault, origin)
        response.delete_cookie(cookie, path=PATH)
        return response

    def _note(self, provider: str, fault: Fault, origin: Origin) -> None:
        if fault.reason not in _REFUSED:
            return
        known = fault if isinstance(fault, NotAdmitted) else None
        user_id = known.user_id if known is not None else None
        refusal = Refusal(
            action="provider.sign_in",
            outcome="failed" if fault.reason == "unauthenticated" else "denied",
            reason=fault.reason,
            origin=origin,
            tenant_id=known.tenant_id if known is not None else None,
            resource=("user", user_id) if user_id is not None else ("provider", provider[:64]),
        )
        self._denials.note(refusal)


def _cookie(state: str) -> str:
    """Two sign-ins in two tabs have two cookies."""
    return "hub_sign_in_" + hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()[:12]


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None


def _problem(request: Request, fault: Fault, trace_id: str) -> Response:
    """A browser gets the page, which says what the reason means; a program gets the fault."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"/#problem={fault.reason}", 303, _HEADERS)
    return fault_response(fault, trace_id)
